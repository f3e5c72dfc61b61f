"""What a run has selected, and how that moves: by comparing with what it was, under the run's lock.

A ref moves only to a handle that was made from what the ref is, so nothing that was selected before is
lost by a promotion; whoever comes too late merges first. Every move is kept.
"""

from __future__ import annotations

from typing import Any

import msgspec

from flakes.store import workspaces
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.identifiers import new_id
from flakes.store.ledger import Ledger
from flakes.wire.codec import encode
from flakes.wire.errors import ApiError
from flakes.wire.reservations import Selector
from flakes.wire.workspaces import (
    SELECTED,
    Promoted,
    PromotionPost,
    WorkspaceHandle,
    WorkspacePromotion,
    WorkspaceRef,
)

HISTORY_LENGTH = 200
_ANCESTRY_MAX = 1_000

_REFS = Query("""
    select name, workspace_id, version, updated_at from workspace_refs
    where run_id = %(run_id)s order by name""")

_REF = Query("""
    select name, workspace_id, version, updated_at from workspace_refs
    where run_id = %(run_id)s and name = %(name)s""")

_MOVE = Query("""
    insert into workspace_refs (run_id, name, workspace_id, version)
    values (%(run_id)s, %(name)s, %(workspace_id)s, 1)
    on conflict (run_id, name) do update
    set workspace_id = excluded.workspace_id, version = workspace_refs.version + 1, updated_at = now()
    returning name, workspace_id, version, updated_at""")

_RECORD = Query("""
    insert into workspace_promotions (run_id, name, version, from_workspace_id, to_workspace_id, mode,
                                      paths, user_id, assignment_id)
    values (%(run_id)s, %(name)s, %(version)s, %(from)s, %(to)s, %(mode)s, %(paths)s::json,
            %(user_id)s, %(assignment_id)s)
    returning name, version, from_workspace_id, to_workspace_id, mode, paths, user_id, assignment_id,
              promoted_at""")

_HISTORY = Query("""
    select p.name, p.version, p.from_workspace_id, p.to_workspace_id, p.mode, p.paths, p.user_id,
           p.assignment_id, p.promoted_at, t.task_key
    from workspace_promotions p
    left join assignments a on a.assignment_id = p.assignment_id
    left join tasks t on t.task_id = a.task_id
    where p.run_id = %(run_id)s
    order by p.promoted_at desc, p.version desc limit %(limit)s""")

_BIND = Query("""
    update runs set workspace_id = %(workspace_id)s where run_id = %(run_id)s""")

_COPY = Query("""
    insert into workspaces (workspace_id, owner_id, kind, commit_id, tree_id, head, pack_digests, pack_sizes)
    select %(copy_id)s, owner_id, 'snapshot', commit_id, tree_id, head, pack_digests, pack_sizes
    from workspaces where workspace_id = %(workspace_id)s
    on conflict (owner_id, commit_id, kind, coalesce(run_id, ''), coalesce(task_id, ''))
    do update set used_at = now()
    returning workspace_id""")

# Walked by bases, which are within the run: how far depends on how many tasks worked one after another.
_DESCENDS = Query("""
    with recursive line(workspace_id, base_workspace_id, depth) as (
        select workspace_id, base_workspace_id, 0 from workspaces
        where workspace_id = %(workspace_id)s
        union all
        select w.workspace_id, w.base_workspace_id, l.depth + 1
        from line l join workspaces w on w.workspace_id = l.base_workspace_id
        where l.workspace_id <> %(ancestor)s and l.depth < %(depth_max)s
    )
    select 1 from line where workspace_id = %(ancestor)s limit 1""")


async def bind(conn: Connection, owner_id: str, run_id: str, workspace_id: str) -> None:
    """Make the files what a new run begins from. In the transaction that creates the run.

    A handle of another run is taken as a snapshot of its own, so that it stays when that run goes.
    """
    handle = await workspaces.get(conn, owner_id, workspace_id)
    bound_id = handle.workspace_id
    if handle.run_id is not None:
        params = {"workspace_id": bound_id, "copy_id": new_id("ws")}
        copied = await row(conn, _COPY, params)
        assert copied is not None
        bound_id = copied[0]
    await run(conn, _BIND, {"run_id": run_id, "workspace_id": bound_id})
    await _move(
        conn, run_id, SELECTED, None, bound_id, mode="initial", paths=None, user_id=owner_id,
        assignment_id=None,
    )  # fmt: skip


async def refs(conn: Connection, run_id: str) -> list[WorkspaceRef]:
    """All refs of a run."""
    return [_ref(found) for found in await rows(conn, _REFS, {"run_id": run_id})]


async def ref(conn: Connection, run_id: str, name: str = SELECTED) -> WorkspaceRef | None:
    """One ref of a run, if it is there."""
    found = await row(conn, _REF, {"run_id": run_id, "name": name})
    return None if found is None else _ref(found)


async def history(conn: Connection, run_id: str) -> list[WorkspacePromotion]:
    """The last promotions, newest first."""
    params = {"run_id": run_id, "limit": HISTORY_LENGTH}
    return [_promotion(found) for found in await rows(conn, _HISTORY, params)]


async def promote(
    conn: Connection,
    ledger: Ledger,
    owner_id: str,
    run_id: str,
    post: PromotionPost,
    *,
    user_id: str | None = None,
    assignment_id: str | None = None,
    task_id: str | None = None,
) -> Promoted:
    """Move a ref of a locked run; the caller flushes the ledger.

    Raises 409 `workspace_base_stale`, 400 `workspace_path_refused`, 404 `not_found`. A promotion to what is
    selected already changes nothing and answers with what made it so.
    """
    handle = await workspaces.get(conn, owner_id, post.workspace_id)
    if handle.run_id not in (None, run_id):
        raise ApiError("workspace_unrelated", "the workspace belongs to another run", "promote one of this run")
    current = await ref(conn, run_id, post.ref)
    if current is not None and current.workspace_id == handle.workspace_id:
        done = await row(conn, _LAST, {"run_id": run_id, "name": post.ref, "version": current.version})
        assert done is not None
        return Promoted(ref=current, promotion=_promotion(done))
    now = None if current is None else current.workspace_id
    if post.expected_workspace_id != now:
        raise _stale(
            current, f"the ref {post.ref!r} is {now or 'not there'}, not {post.expected_workspace_id}"
        )
    if now is not None and not await _descends(conn, handle.workspace_id, now):
        raise _stale(current, f"{handle.workspace_id} was not made from {now}, which the ref is")
    paths = post.paths
    if post.mode == "replace_bounded_paths":
        paths = _bounded(handle, post)
    moved, promotion = await _move(
        conn, run_id, post.ref, now, handle.workspace_id, mode=post.mode, paths=paths,
        user_id=user_id, assignment_id=assignment_id,
    )  # fmt: skip
    data: dict[str, Any] = {
        "ref": post.ref, "version": moved.version, "fromWorkspaceId": now,
        "workspaceId": handle.workspace_id, "mode": post.mode, "userId": user_id,
        "assignmentId": assignment_id,
    }  # fmt: skip
    ledger.event(
        run_id, "workspace.promoted", task_id or handle.task_id,
        {name: value for name, value in data.items() if value is not None},
    )  # fmt: skip
    return Promoted(ref=moved, promotion=promotion)


_LAST = Query("""
    select name, version, from_workspace_id, to_workspace_id, mode, paths, user_id, assignment_id,
           promoted_at
    from workspace_promotions
    where run_id = %(run_id)s and name = %(name)s and version = %(version)s""")


async def _descends(conn: Connection, workspace_id: str, ancestor: str) -> bool:
    params = {"workspace_id": workspace_id, "ancestor": ancestor, "depth_max": _ANCESTRY_MAX}
    return await row(conn, _DESCENDS, params) is not None


def _bounded(handle: WorkspaceHandle, post: PromotionPost) -> list[Selector]:
    """The paths that may change, or a refusal: the handle must keep within them."""
    allowed = handle.paths if post.paths is None else post.paths
    if allowed is None:
        raise ApiError("invalid_request", "replace_bounded_paths needs paths, and the workspace declares none", "give paths, or promote by fast_forward")
    if handle.paths is None:
        inside = handle.changes is not None and len(handle.changes) == handle.change_count
        outside = [c.path for c in handle.changes or () if not _covers(allowed, c.path, "exact")]
        if not inside:
            raise ApiError("workspace_path_refused", "the workspace changes more paths than are recorded", "declare its paths when it is stored", paths=[])
    else:
        outside = [s.path for s in handle.paths if not _covers(allowed, s.path, s.kind)]
    if outside:
        raise ApiError("workspace_path_refused", f"the workspace changes {outside[0]!r}, which is not among the paths", "promote it with the paths that it changes", paths=outside[:20])
    return allowed


def _covers(allowed: list[Selector], path: str, kind: str) -> bool:
    for selector in allowed:
        base = selector.path.rstrip("/")
        if selector.kind == "prefix" and (base in ("", ".") or path == base or path.startswith(f"{base}/")):
            return True
        if selector.kind == "exact" and kind == "exact" and path == base:
            return True
    return False


async def _move(
    conn: Connection,
    run_id: str,
    name: str,
    before: str | None,
    after: str,
    *,
    mode: str,
    paths: list[Selector] | None,
    user_id: str | None,
    assignment_id: str | None,
) -> tuple[WorkspaceRef, WorkspacePromotion]:
    moved = await row(conn, _MOVE, {"run_id": run_id, "name": name, "workspace_id": after})
    assert moved is not None
    recorded = await row(conn, _RECORD, {
        "run_id": run_id, "name": name, "version": moved[2], "from": before, "to": after, "mode": mode,
        "paths": None if paths is None else encode(paths).decode(), "user_id": user_id,
        "assignment_id": assignment_id,
    })  # fmt: skip
    assert recorded is not None
    return _ref(moved), _promotion(recorded)


def _stale(current: WorkspaceRef | None, message: str) -> ApiError:
    return ApiError(
        "workspace_base_stale", message,
        "merge it with what the ref is now, store that as merged, and promote it", current=current,
    )  # fmt: skip


def _ref(found: tuple[Any, ...]) -> WorkspaceRef:
    name, workspace_id, version, updated_at = found
    return WorkspaceRef(name=name, workspace_id=workspace_id, version=version, updated_at=updated_at)


def _promotion(found: tuple[Any, ...]) -> WorkspacePromotion:
    name, version, before, after, mode, paths, user_id, assignment_id, promoted_at, *of = found
    return WorkspacePromotion(
        ref=name, version=version, from_workspace_id=before, to_workspace_id=after, mode=mode,
        paths=None if paths is None else msgspec.convert(paths, list[Selector]), user_id=user_id,
        assignment_id=assignment_id, task_key=of[0] if of else None, promoted_at=promoted_at,
    )  # fmt: skip
