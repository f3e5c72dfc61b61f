"""Project roots of hosts, and the bindings of projects to pools: what is wished here, what the host says of it.

Every change gives a binding a new revision, and a report counts for the revision that the host looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flakes.core import limits, project_root
from flakes.store import hosts, projects
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.identifiers import new_id
from flakes.wire import host_stream as wire
from flakes.wire.bindings import Binding, WorkspaceRoot
from flakes.wire.codec import Issue
from flakes.wire.errors import ApiError, not_found

_SET_ROOT = Query("""
    update hosts set project_root = %(path)s, project_root_at = now(), updated_at = now()
    where host_id = %(host_id)s and project_root is distinct from %(path)s""")

_ROOT_AT = Query("select project_root_at from hosts where host_id = %(host_id)s")

_ROOT = Query("select project_root from hosts where host_id = %(host_id)s")

# A host without a root needs no looking at.
_RENEW = Query("""
    update project_bindings b set status = 'pending', reason = null, revision = revision + 1,
        updated_at = now(), validated_at = null
    where b.host_id = %(host_id)s""")

_COLUMNS = """
    select b.binding_id, b.host_id, b.project_id, p.project_key, b.pool_keys, b.status, b.reason,
           h.project_root, b.validated_at, b.created_at, b.updated_at, b.revision
    from project_bindings b join projects p using (project_id) join hosts h on h.host_id = b.host_id"""

_LIST = Query(f"""{_COLUMNS}
    where b.host_id = %(host_id)s and (%(before)s::text is null or b.binding_id < %(before)s)
    order by b.binding_id desc limit %(limit)s""")

_GET = Query(f"{_COLUMNS} where b.host_id = %(host_id)s and b.project_id = %(project_id)s")

_BY_ID = Query(f"{_COLUMNS} where b.binding_id = %(binding_id)s")

_COUNT = Query("select count(*) from project_bindings where host_id = %(host_id)s")

_KNOWN_POOLS = Query("select pool_key from host_pools where host_id = %(host_id)s")

_PUT = Query("""
    insert into project_bindings (binding_id, host_id, project_id, pool_keys, status, reason)
    values (%(binding_id)s, %(host_id)s, %(project_id)s, %(pool_keys)s, %(status)s, %(reason)s)
    on conflict (host_id, project_id) do update
    set pool_keys = excluded.pool_keys, status = excluded.status, reason = excluded.reason,
        revision = project_bindings.revision + 1, updated_at = now(), validated_at = null""")

_DELETE = Query("""
    delete from project_bindings where host_id = %(host_id)s and project_id = %(project_id)s""")

_REPORT = Query("""
    update project_bindings b
    set status = case when u.available then 'available' else 'unavailable' end,
        reason = nullif(u.reason, ''), validated_at = now(),
        updated_at = case when b.status = 'pending' or (b.status = 'available') <> u.available
                              or b.reason is distinct from nullif(u.reason, '')
                          then now() else b.updated_at end
    from unnest(%(binding_ids)s::text[], %(revisions)s::bigint[], %(available)s::boolean[], %(reasons)s::text[])
             as u(binding_id, revision, available, reason),
         project_bindings before
    where b.binding_id = u.binding_id and before.binding_id = b.binding_id
      and b.host_id = %(host_id)s and b.revision = u.revision
    returning b.binding_id, before.status <> b.status or before.reason is distinct from b.reason""")

_PENDING = Query("""
    select host_id, binding_id, revision from project_bindings
    where status = 'pending' and host_id = any(%(host_ids)s)""")

_EVENTS = {
    "pending": "binding.pending",
    "available": "binding.available",
    "unavailable": "binding.unavailable",
}


async def set_root(conn: Connection, owner_id: str, host_id: str, path: str) -> WorkspaceRoot:
    """Store a root; every binding of the host has to be looked at again when it changed."""
    wrong = project_root.problem(path)
    if wrong:
        raise ApiError(
            "invalid_request", f"path {wrong}", "give the full path of a directory on the host",
            issues=[Issue(path="path", message=wrong)],
        )  # fmt: skip
    await hosts.lock(conn, owner_id, host_id)
    if await run(conn, _SET_ROOT, {"host_id": host_id, "path": path}):
        await run(conn, _RENEW, {"host_id": host_id})
        await hosts.record(conn, owner_id, "host.updated", {"hostId": host_id})
    at = await row(conn, _ROOT_AT, {"host_id": host_id})
    assert at is not None
    return WorkspaceRoot(host_id=host_id, project_workspace_root=path, updated_at=at[0])


async def put(
    conn: Connection, owner_id: str, host_id: str, project_key: str, pool_keys: Sequence[str]
) -> tuple[Binding, bool]:
    """Bind a project to pools of a host; True when it was not bound there before."""
    host = await hosts.lock(conn, owner_id, host_id)
    project = await projects.active(conn, owner_id, project_key)
    if host.disabled_at is not None:
        raise ApiError("host_conflict", "the host is disabled", "enable it, or bind to another host")
    wanted = sorted(set(pool_keys))
    known = {r[0] for r in await rows(conn, _KNOWN_POOLS, {"host_id": host_id})}
    unknown = [
        Issue(path=f"poolKeys[{index}]", message=f"the host advertised no pool `{key[:64]}`")
        for index, key in enumerate(pool_keys)
        if key not in known
    ]
    if unknown:
        raise ApiError(
            "invalid_request", unknown[0].message,
            f"use one of: {', '.join(sorted(known))}" if known
            else "run the host once, so that it advertises its pools", issues=unknown,
        )  # fmt: skip
    before = await row(conn, _GET, {"host_id": host_id, "project_id": project.project_id})
    if before is not None and before[4] == wanted:
        return _binding(before), False
    if before is None:
        count = await row(conn, _COUNT, {"host_id": host_id})
        if count is not None and count[0] >= limits.BINDINGS_PER_HOST_MAX:
            raise ApiError(
                "limit_exceeded", f"the host has {count[0]} bindings", "unbind a project first",
                limit=limits.BINDINGS_PER_HOST_MAX,
            )  # fmt: skip
    rooted = host.project_workspace_root is not None
    await run(conn, _PUT, {
        "binding_id": new_id("binding"), "host_id": host_id, "project_id": project.project_id,
        "pool_keys": wanted, "status": "pending" if rooted else "unavailable",
        "reason": None if rooted else "workspace_root_missing",
    })  # fmt: skip
    found = await row(conn, _GET, {"host_id": host_id, "project_id": project.project_id})
    assert found is not None
    binding = _binding(found)
    await _record(conn, owner_id, binding)
    return binding, before is None


async def page(
    conn: Connection, owner_id: str, host_id: str, *, before: str | None, limit: int
) -> list[Binding]:
    """Bindings of a host, newest first."""
    await hosts.get(conn, owner_id, host_id)
    params = {"host_id": host_id, "before": before, "limit": limit}
    return [_binding(r) for r in await rows(conn, _LIST, params)]


async def delete(conn: Connection, owner_id: str, host_id: str, project_key: str) -> None:
    """Unbind; `not_found` when there is nothing to."""
    await hosts.lock(conn, owner_id, host_id)
    project = await projects.get(conn, owner_id, project_key)
    if not await run(conn, _DELETE, {"host_id": host_id, "project_id": project.project_id}):
        raise not_found("binding")
    data = {"hostId": host_id, "projectKey": project.project_key}
    await hosts.record(conn, owner_id, "binding.deleted", data)


async def of_host(conn: Connection, host_id: str) -> wire.Bindings:
    """What the host is to look at."""
    root = await row(conn, _ROOT, {"host_id": host_id})
    params = {"host_id": host_id, "before": None, "limit": limits.BINDINGS_PER_HOST_MAX}
    found = [
        wire.Binding(binding_id=r[0], revision=r[11], project_key=r[3], pool_keys=r[4])
        for r in await rows(conn, _LIST, params)
    ]
    return wire.Bindings(root=root[0] if root else None, bindings=found)


async def report(
    conn: Connection, owner_id: str, host_id: str, states: Sequence[wire.BindingState]
) -> int:
    """Take over what a host says of its bindings; how many changed. Those of an older revision, and of
    other hosts, are ignored."""
    changed = [
        r[0]
        for r in await rows(conn, _REPORT, {
            "host_id": host_id, "binding_ids": [s.binding_id for s in states],
            "revisions": [s.revision for s in states], "available": [s.available for s in states],
            "reasons": [
                "" if s.available else s.reason if s.reason in wire.BINDING_REASONS else "unknown"
                for s in states
            ],
        })
        if r[1]
    ]  # fmt: skip
    for binding_id in changed:
        found = await row(conn, _BY_ID, {"binding_id": binding_id})
        if found is not None:
            await _record(conn, owner_id, _binding(found))
    return len(changed)


async def unanswered(conn: Connection, host_ids: Sequence[str]) -> list[tuple[str, str, int]]:
    """(host id, binding id, revision) of what these hosts have not said their word on."""
    found = await rows(conn, _PENDING, {"host_ids": list(host_ids)})
    return [(host_id, binding_id, revision) for host_id, binding_id, revision in found]


async def _record(conn: Connection, owner_id: str, binding: Binding) -> None:
    data: dict[str, Any] = {
        "hostId": binding.host_id, "projectKey": binding.project_key, "poolKeys": binding.pool_keys,
    }  # fmt: skip
    if binding.reason:
        data["reason"] = binding.reason
    await hosts.record(conn, owner_id, _EVENTS[binding.status], data)


def _binding(r: Sequence[Any]) -> Binding:
    (binding_id, host_id, project_id, project_key, pool_keys, status, reason, root, validated_at,
     created_at, updated_at, _) = r  # fmt: skip
    return Binding(
        binding_id=binding_id, host_id=host_id, project_id=project_id, project_key=project_key,
        pool_keys=pool_keys, status=status, reason=reason, validated_at=validated_at,
        workspace_path=project_root.workspace_path(root, project_key) if root else None,
        created_at=created_at, updated_at=updated_at,
    )  # fmt: skip
