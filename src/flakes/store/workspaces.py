"""Workspace handles: rows and events, none of the bytes, and nothing of git.

A handle is written once and never changed; the same commit stored again for the same task is the same
handle. Its packs are blobs. Whoever names a pack must have brought it: by an artifact, by an earlier handle,
or, for a sandbox, as a blob of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from flakes.store import merging
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.identifiers import new_id
from flakes.store.ledger import Ledger
from flakes.wire.codec import encode
from flakes.wire.errors import ApiError, not_found
from flakes.wire.reservations import Selector
from flakes.wire.workspaces import (
    PACK_KIND,
    WorkspaceChange,
    WorkspaceHandle,
    WorkspacePack,
    WorkspacePost,
)

UNBOUND_KEPT_S = 7 * 24 * 3_600.0
"""How long a snapshot is kept that no run uses."""

_COLUMNS = """w.workspace_id, w.kind, w.commit_id, w.tree_id, w.pack_digests, w.pack_sizes,
    w.base_workspace_id, w.head, w.paths, w.change_count, w.run_id, w.task_id, w.assignment_id,
    w.created_at"""

_INSERT = Query("""
    insert into workspaces (workspace_id, owner_id, kind, commit_id, tree_id, base_workspace_id, head,
                            run_id, task_id, assignment_id, pack_digests, pack_sizes, paths, changes,
                            change_count)
    values (%(workspace_id)s, %(owner_id)s, %(kind)s, %(commit)s, %(tree)s, %(base)s, %(head)s,
            %(run_id)s, %(task_id)s, %(assignment_id)s, %(digests)s, %(sizes)s, %(paths)s::json,
            %(changes)s::json, %(change_count)s)
    on conflict (owner_id, commit_id, kind, coalesce(run_id, ''), coalesce(task_id, ''))
    do update set used_at = now()
    returning workspace_id""")

_GET = Query(f"""
    select {_COLUMNS}, w.changes from workspaces w
    where w.workspace_id = %(workspace_id)s and w.owner_id = %(owner_id)s""")

_SOME = Query(f"select {_COLUMNS} from workspaces w where w.workspace_id = any(%(workspace_ids)s)")

_OF_RUN = Query(f"""
    select {_COLUMNS} from workspaces w
    where w.run_id = %(run_id)s and (%(before)s::text is null or w.workspace_id < %(before)s)
      and (%(task_id)s::text is null or w.task_id = %(task_id)s)
    order by w.workspace_id desc limit %(limit)s""")

_KNOWN_PACKS = Query("""
    select d from unnest(%(digests)s::text[]) d
    where exists (select 1 from workspaces w
                  where w.pack_digests @> array[d] and w.owner_id = %(owner_id)s)
       or exists (select 1 from artifacts a
                  where a.digest = d and a.owner_id = %(owner_id)s and a.state = 'ready')""")

_FORGET_ARTIFACTS = Query("""
    delete from artifacts
    where owner_id = %(owner_id)s and digest = any(%(digests)s::text[]) and kind = %(kind)s
      and state = 'ready'""")

_MARK_RUN = Query("""
    update runs set has_workspaces = true where run_id = %(run_id)s and not has_workspaces""")

# Everything that the run of a live attempt has to do with: what its tasks stored, what was ever selected,
# and what definitions name.
_VISIBLE = """
    select 1 from assignments a
    join runs r on r.run_id = a.run_id
    where a.sandbox_id = %(sandbox_id)s and a.live and r.owner_id = w.owner_id
      and (w.run_id = a.run_id
           or exists (select 1 from workspace_promotions p
                      where p.to_workspace_id = w.workspace_id and p.run_id = a.run_id)
           or exists (select 1 from task_payloads d
                      cross join lateral json_each_text(
                          coalesce(d.definition -> 'workspaceInputs', '{}'::json)) i
                      where d.task_id = a.task_id and i.value = w.workspace_id))"""

_FOR_SANDBOX = Query(f"""
    select {_COLUMNS}, w.changes from workspaces w
    where w.workspace_id = %(workspace_id)s and exists ({_VISIBLE})""")

_PACK_FOR_SANDBOX = Query(f"""
    select 1 from workspaces w
    where w.pack_digests @> array[%(digest)s::text] and exists ({_VISIBLE}) limit 1""")

_OF_ATTEMPT = Query("""
    select a.run_id, a.task_id, a.state = 'accepted', r.owner_id
    from assignments a join runs r on r.run_id = a.run_id
    where a.assignment_id = %(assignment_id)s and a.sandbox_id = %(sandbox_id)s
    for share of a""")

_FORGET_UNBOUND = Query("""
    delete from workspaces where workspace_id in (
        select w.workspace_id from workspaces w
        where w.run_id is null and w.used_at < now() - make_interval(secs => %(kept_s)s)
          and not exists (select 1 from workspace_promotions p
                          where p.to_workspace_id = w.workspace_id)
          and not exists (select 1 from workspaces o where o.base_workspace_id = w.workspace_id)
        order by w.used_at limit %(limit)s for update skip locked)""")

_EVENT = Query("""
    insert into events (owner_id, run_id, task_id, type, data)
    values (%(owner_id)s, null, null, 'workspace.created', %(data)s::json)""")


@dataclass(frozen=True, slots=True)
class Place:
    """What a handle belongs to."""

    run_id: str | None = None
    task_id: str | None = None
    assignment_id: str | None = None
    live: bool = False
    """The attempt has not ended."""


async def known_packs(conn: Connection, owner_id: str, digests: Collection[str]) -> set[str]:
    """Which of these packs the account has brought already."""
    params = {"owner_id": owner_id, "digests": sorted(set(digests))}
    return {r[0] for r in await rows(conn, _KNOWN_PACKS, params)}


async def create(
    conn: Connection, owner_id: str, post: WorkspacePost, place: Place, ledger: Ledger | None
) -> tuple[str, bool]:
    """Write the handle; its id, and whether it is new. In a transaction, with the lock of its run in the
    ledger. The caller has seen that the packs are there, and has noted them."""
    if post.base_workspace_id is not None:
        base = await get(conn, owner_id, post.base_workspace_id)
        if base.run_id not in (None, place.run_id):
            raise ApiError("workspace_unrelated", "the base belongs to another run", "start the run from it: `workspaceId` in its creation")
    digests = [pack.digest for pack in post.packs]
    workspace_id = new_id("ws")
    found = await row(conn, _INSERT, {
        "workspace_id": workspace_id, "owner_id": owner_id, "kind": post.kind, "commit": post.commit,
        "tree": post.tree, "base": post.base_workspace_id, "head": post.head, "run_id": place.run_id,
        "task_id": place.task_id, "assignment_id": place.assignment_id, "digests": digests,
        "sizes": [pack.size_bytes for pack in post.packs],
        "paths": None if post.paths is None else encode(post.paths).decode(),
        "changes": encode(post.changes).decode(),
        "change_count": max(post.change_count, len(post.changes)),
    })  # fmt: skip
    assert found is not None
    await run(conn, _FORGET_ARTIFACTS, {"owner_id": owner_id, "digests": digests, "kind": PACK_KIND})
    if found[0] != workspace_id:
        return found[0], False
    data: dict[str, Any] = {
        "workspaceId": workspace_id, "kind": post.kind, "commit": post.commit,
        "changes": max(post.change_count, len(post.changes)),
    }  # fmt: skip
    if ledger is None or place.run_id is None:
        await run(conn, _EVENT, {"owner_id": owner_id, "data": encode(data).decode()})
        return workspace_id, True
    if place.assignment_id is not None:
        data["assignmentId"] = place.assignment_id
    await run(conn, _MARK_RUN, {"run_id": place.run_id})
    ledger.event(place.run_id, "workspace.created", place.task_id, data)
    if place.live and post.kind in ("output", "candidate") and data["changes"]:
        assert place.task_id is not None
        assert place.assignment_id is not None
        await merging.enter(
            conn, ledger, place.run_id, place.task_id, place.assignment_id, workspace_id
        )
    return workspace_id, True


async def of_attempt(
    conn: Connection, owner_id: str, sandbox_id: str, assignment_id: str, post: WorkspacePost
) -> Place:
    """What an attempt may store: while it is live anything, and once it has ended what it had changed.

    Raises 403 `stale_assignment`.
    """
    params = {"assignment_id": assignment_id, "sandbox_id": sandbox_id}
    found = await row(conn, _OF_ATTEMPT, params)
    if found is None or found[3] != owner_id or not (found[2] or post.kind == "candidate"):
        raise ApiError(
            "stale_assignment", "the assignment is not this sandbox's, not accepted, or has ended",
            "stop: another attempt has taken over; what was changed may still be stored as a candidate",
        )  # fmt: skip
    return Place(found[0], found[1], assignment_id, live=found[2])


async def get(conn: Connection, owner_id: str, workspace_id: str) -> WorkspaceHandle:
    """One handle, with the paths that it changes."""
    found = await row(conn, _GET, {"workspace_id": workspace_id, "owner_id": owner_id})
    if found is None:
        raise not_found("workspace")
    return handle_of(found[:-1], msgspec.convert(found[-1], list[WorkspaceChange]))


async def for_sandbox(conn: Connection, sandbox_id: str, workspace_id: str) -> WorkspaceHandle:
    """One handle, if a live attempt of this sandbox has to do with it."""
    params = {"workspace_id": workspace_id, "sandbox_id": sandbox_id}
    found = await row(conn, _FOR_SANDBOX, params)
    if found is None:
        raise not_found("workspace")
    return handle_of(found[:-1], msgspec.convert(found[-1], list[WorkspaceChange]))


async def pack_for_sandbox(conn: Connection, sandbox_id: str, digest: str) -> bool:
    """Whether a live attempt of this sandbox has to do with a handle that needs this pack."""
    params = {"digest": digest, "sandbox_id": sandbox_id}
    return await row(conn, _PACK_FOR_SANDBOX, params) is not None


async def some(conn: Connection, workspace_ids: Collection[str]) -> dict[str, WorkspaceHandle]:
    """These handles by id; those that are not there are left out."""
    if not workspace_ids:
        return {}
    params = {"workspace_ids": sorted(set(workspace_ids))}
    return {found[0]: handle_of(found) for found in await rows(conn, _SOME, params)}


async def of_run(
    conn: Connection, run_id: str, *, task_id: str | None, before: str | None, limit: int
) -> list[WorkspaceHandle]:
    """Handles that tasks of the run stored, newest first."""
    params = {"run_id": run_id, "task_id": task_id, "before": before, "limit": limit}
    return [handle_of(found) for found in await rows(conn, _OF_RUN, params)]


def check_place(post: WorkspacePost) -> None:
    """What a person may store, and where: 400 for kinds that only attempts store."""
    if post.kind in ("output", "candidate"):
        raise ApiError("invalid_request", f"only a running task stores its {post.kind}", "store a snapshot, or what was merged")
    if (post.kind == "merged") != (post.run_id is not None):
        raise ApiError("invalid_request", "a merged workspace belongs to a run, a snapshot to none", "give runId with kind merged only")


async def forget_unbound(conn: Connection, kept_s: float, limit: int) -> int:
    """Delete snapshots that no run has used for so long; how many."""
    return await run(conn, _FORGET_UNBOUND, {"kept_s": kept_s, "limit": limit})


def handle_of(
    found: Sequence[Any], changes: list[WorkspaceChange] | None = None
) -> WorkspaceHandle:
    """A handle of a row."""
    workspace_id, kind, commit, tree, digests, sizes, base, head, paths, count = found[:10]
    run_id, task_id, assignment_id, created_at = found[10:]
    packs = [
        WorkspacePack(digest=digest, size_bytes=size)
        for digest, size in zip(digests, sizes, strict=True)
    ]
    return WorkspaceHandle(
        workspace_id=workspace_id, kind=kind, commit=commit, tree=tree, packs=packs,
        base_workspace_id=base, head=head,
        paths=None if paths is None else msgspec.convert(paths, list[Selector]),
        change_count=count, changes=changes, run_id=run_id, task_id=task_id,
        assignment_id=assignment_id, created_at=created_at,
    )  # fmt: skip


