"""Runs: creation by key, reading, listing, closing, deleting. Their state is the ledger's business."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from flakes.core import keys, limits
from flakes.core.run import RunState
from flakes.core.task import LIVE
from flakes.store import projects, promotions
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.definitions import check_key, check_size
from flakes.store.identifiers import new_id
from flakes.store.ledger import STATUSES, Ledger
from flakes.wire.codec import encode
from flakes.wire.errors import ApiError, not_found
from flakes.wire.runs import GraphPost, Run, RunPut

_COLUMNS = """r.run_id, r.run_key, r.name, r.project_id, p.project_key, r.state, r.closed,
    r.cancel_requested_at is not null, r.delete_requested_at is not null, r.counts, r.metadata, r.budget,
    r.workspace_id, r.created_at, r.updated_at, r.completed_at"""

_INSERT = Query("""
    insert into runs (run_id, owner_id, project_id, run_key, name, metadata, budget, definition_digest)
    values (%(run_id)s, %(owner_id)s, %(project_id)s, %(run_key)s, %(name)s, %(metadata)s::json,
            %(budget)s::json, %(digest)s)
    on conflict (owner_id, run_key) do nothing""")

_POLICY = Query("""
    update runs set merge_policy = %(policy)s::json where run_id = %(run_id)s""")

_DIGEST = Query("""
    select run_id, definition_digest, delete_requested_at is not null from runs
    where owner_id = %(owner_id)s and run_key = %(run)s for update""")

# One statement for ids and one for keys, each on its own unique index: together they would scan.
_FROM = f"select {_COLUMNS} from runs r join projects p using (project_id)"
_GET_BY_ID = Query(f"{_FROM} where r.run_id = %(run)s and r.owner_id = %(owner_id)s")
_GET_BY_KEY = Query(f"{_FROM} where r.owner_id = %(owner_id)s and r.run_key = %(run)s")

_RESOLVE_ID = Query("select run_id from runs where run_id = %(run)s and owner_id = %(owner_id)s")
_RESOLVE_KEY = Query("select run_id from runs where owner_id = %(owner_id)s and run_key = %(run)s")

# And one for every combination of filters: each reads one index from `before` on and stops at `limit`.
_PROJECT = "(select project_id from projects where owner_id = %(owner_id)s and project_key = %(project_key)s)"
_NEWEST = "and r.run_id < %(before)s order by r.run_id desc limit %(limit)s"
_LIST = Query(f"{_FROM} where r.owner_id = %(owner_id)s {_NEWEST}")
_LIST_STATE = Query(f"{_FROM} where r.owner_id = %(owner_id)s and r.state = %(state)s {_NEWEST}")
_LIST_PROJECT = Query(f"{_FROM} where r.project_id = {_PROJECT} {_NEWEST}")
_LIST_PROJECT_STATE = Query(
    f"{_FROM} where r.project_id = {_PROJECT} and r.state = %(state)s {_NEWEST}"
)
# A search looks at the newest runs first, which is enough for a common word; a rare one is looked up in an index of
# trigrams. Materialized, because a plan that hopes to find enough in order reads every run when there is not.
_MATCHES = f"""(r.name ilike %(like)s or r.run_key like lower(%(like)s) or r.run_id = %(words)s)
      and (%(state)s::text is null or r.state = %(state)s)
      and (%(project_key)s::text is null or r.project_id = {_PROJECT})"""
_FOUND = f"{_FROM} where r.run_id in (select run_id from found order by run_id desc limit %(limit)s) order by r.run_id desc"
_SEARCH_NEWEST = Query(f"""
    with newest as materialized (
        select * from runs r where r.owner_id = %(owner_id)s and r.run_id < %(before)s order by r.run_id desc limit 1000
    ), found as materialized (select r.run_id from newest r where {_MATCHES}) {_FOUND}""")
_SEARCH = Query(f"""
    with found as materialized (
        select r.run_id from runs r where r.owner_id = %(owner_id)s and r.run_id < %(before)s and {_MATCHES}
    ) {_FOUND}""")
_AFTER_ALL = "run_~"

_CLOSE = Query("update runs set closed = true where run_id = %(run_id)s")

# Children first, in one statement; the tables of the hot path have no foreign keys to do it for us.
_DELETE = Query("""
    with gone as (
        delete from tasks where run_id = %(run_id)s returning task_id
    ), attempts as (
        delete from assignments where task_id in (select task_id from gone) returning assignment_id
    ), logs as (
        delete from log_chunks where assignment_id in (select assignment_id from attempts)
    ), log_sizes as (
        delete from task_logs where task_id in (select task_id from gone)
    ), transcripts as (
        delete from transcript_chunks where assignment_id in (select assignment_id from attempts)
    ), transcript_sizes as (
        delete from transcript_sizes where assignment_id in (select assignment_id from attempts)
    ), spent as (
        delete from attempt_usage where run_id = %(run_id)s
    ), reserved as (
        delete from budget_reservations where run_id = %(run_id)s
    ), extended as (
        delete from budget_extensions where run_id = %(run_id)s
    ), followed as (
        insert into deleted_runs (run_id) values (%(run_id)s) on conflict do nothing
    ), payloads as (
        delete from task_payloads where task_id in (select task_id from gone)
    ), results as (
        delete from task_results where task_id in (select task_id from gone)
    ), edges as (
        delete from task_dependencies where task_id in (select task_id from gone)
    ), queue as (
        delete from ready_tasks where task_id in (select task_id from gone)
    ), talk as (
        delete from messages where task_id in (select task_id from gone)
    ), questions as (
        delete from permissions where task_id in (select task_id from gone)
    ), pads as (
        delete from workpads where task_id in (select task_id from gone)
    ), pad_versions as (
        delete from workpad_versions where task_id in (select task_id from gone)
    ), groups as (
        delete from task_groups where run_id = %(run_id)s
    ), spawned as (
        delete from task_spawns where task_id in (select task_id from gone)
    ), waited as (
        delete from waits where run_id = %(run_id)s
    ), awaited as (
        delete from wait_members where task_id in (select task_id from gone)
    ), prompted as (
        delete from rounds where run_id = %(run_id)s
    ), finishing as (
        delete from finishing_tasks where run_id = %(run_id)s
    ), signalled as (
        delete from signals where run_id = %(run_id)s
    ), journals as (
        delete from harness_journals where task_id in (select task_id from gone)
    ), reservations as (
        delete from file_reservations where run_id = %(run_id)s
    ), live as (
        delete from live_changes where run_id = %(run_id)s
    ), overlapping as (
        delete from workspace_overlaps where run_id = %(run_id)s
    )
    delete from runs where run_id = %(run_id)s""")

_DELETED = Query("""
    insert into events (owner_id, run_id, type, data)
    values (%(owner_id)s, %(run_id)s, 'run.deleted', %(data)s::json)""")


_REQUEST_DELETE = Query("""
    update runs set delete_requested_at = coalesce(delete_requested_at, now()) where run_id = %(run_id)s""")

# The counts of blocked, queued, running and waiting tasks: see `ledger.STATUSES`.
_DELETING = Query("""
    select run_id, counts[2] + counts[3] + counts[4] + counts[5] = 0 from runs
    where delete_requested_at is not null
    order by 2 desc, delete_requested_at limit 20""")

_FORGET_DELETED = Query("""
    with old as (
        delete from deleted_runs where run_id in (
            select run_id from deleted_runs
            where deleted_at < now() - %(kept_s)s * interval '1 s' order by deleted_at limit 20)
        returning run_id
    ), gone as (
        delete from events where run_id in (select run_id from old)
    )
    select run_id from old""")


async def put(conn: Connection, owner_id: str, key: str, body: RunPut) -> tuple[Run, bool]:
    """Create, or read the identical one; True when created. 409 `run_conflict` when it differs."""
    run_id, created = await ensure(conn, owner_id, key, body)
    if created:
        ledger = await Ledger.lock(conn, [run_id])
        ledger.event(run_id, "run.created", data={"runKey": key, "name": body.name})
        await ledger.flush(conn)
    return await get(conn, owner_id, run_id), created


async def ensure(
    conn: Connection, owner_id: str, key: str, body: RunPut | GraphPost
) -> tuple[str, bool]:
    """The id of the run of that key, made if need be. Locks it when it existed."""
    check_key("run", key)
    if body.run_key not in (None, key):
        raise ApiError(
            "invalid_request", "runKey differs from the path", "make them equal or leave it out"
        )
    if (body.project_key is None) == (body.project_id is None):
        raise ApiError(
            "invalid_request",
            "give exactly one of projectKey and projectId",
            "name the project of the run",
        )
    check_size("metadata", body.metadata, limits.METADATA_SIZE_BYTES_MAX)
    reference = body.project_id if body.project_key is None else body.project_key
    assert reference is not None
    project = await projects.get(conn, owner_id, reference)
    definition: list[Any] = [body.name, project.project_id, body.metadata, body.budget]
    if body.workspace_id is not None:
        definition.append(body.workspace_id)
    if body.merging is not None:
        definition.append(body.merging)
    digest = hashlib.sha256(encode(definition)).digest()
    existing = await row(conn, _DIGEST, {"owner_id": owner_id, "run": key})
    if existing is None:
        await projects.active(conn, owner_id, project.project_id)
        run_id = new_id("run")
        created = await run(conn, _INSERT, {
            "run_id": run_id, "owner_id": owner_id, "project_id": project.project_id, "run_key": key,
            "name": body.name, "metadata": encode(body.metadata).decode(), "digest": digest,
            "budget": None if body.budget is None else encode(body.budget).decode(),
        })  # fmt: skip
        if created:
            if body.merging is not None:
                policy = encode(body.merging).decode()
                await run(conn, _POLICY, {"run_id": run_id, "policy": policy})
            if body.workspace_id is not None:
                await promotions.bind(conn, owner_id, run_id, body.workspace_id)
            return run_id, True
        existing = await row(conn, _DIGEST, {"owner_id": owner_id, "run": key})
        assert existing is not None
    if existing[2]:
        raise _deleting(key)
    if bytes(existing[1]) != digest:
        raise ApiError(
            "run_conflict", f"run {key!r} exists with another name, project, metadata, budget or workspace",
            "choose another run key, or send what created it", runId=existing[0],
        )  # fmt: skip
    return existing[0], False


async def resolve(conn: Connection, owner_id: str, reference: str) -> str:
    """The run id behind an id or a key."""
    query = _RESOLVE_ID if keys.has_prefix(reference, "run") else _RESOLVE_KEY
    found = await row(conn, query, {"owner_id": owner_id, "run": reference})
    if found is None:
        raise not_found("run")
    return found[0]


async def get(conn: Connection, owner_id: str, reference: str) -> Run:
    """One run by id or key."""
    query = _GET_BY_ID if keys.has_prefix(reference, "run") else _GET_BY_KEY
    found = await row(conn, query, {"owner_id": owner_id, "run": reference})
    if found is None:
        raise not_found("run")
    return _run(found)


async def page(
    conn: Connection,
    owner_id: str,
    *,
    before: str | None,
    limit: int,
    state: str | None = None,
    project_key: str | None = None,
    words: str | None = None,
) -> list[Run]:
    """Newest first. `words` stand in the name or the key as they are."""
    if state is not None and state not in set(RunState):
        raise ApiError(
            "invalid_request", f"unknown run state {state!r}", f"one of {', '.join(RunState)}"
        )
    query = {
        (False, False): _LIST, (True, False): _LIST_STATE,
        (False, True): _LIST_PROJECT, (True, True): _LIST_PROJECT_STATE,
    }[state is not None, project_key is not None]  # fmt: skip
    escaped = re.sub(r"([\\%_])", r"\\\1", words or "")
    params: Mapping[str, Any] = {
        "owner_id": owner_id, "before": before or _AFTER_ALL, "limit": limit, "state": state,
        "project_key": project_key, "words": words, "like": f"%{escaped}%",
    }  # fmt: skip
    if not words:
        return [_run(r) for r in await rows(conn, query, params)]
    found = await rows(conn, _SEARCH_NEWEST, params)
    if len(found) < limit:
        found = await rows(conn, _SEARCH, params)
    return [_run(r) for r in found]


async def close(conn: Connection, owner_id: str, reference: str) -> Run:
    """No more top-level tasks. Closing again changes nothing."""
    run_id = await resolve(conn, owner_id, reference)
    ledger = await Ledger.lock(conn, [run_id])
    await close_locked(conn, ledger, run_id)
    await ledger.flush(conn)
    return await get(conn, owner_id, run_id)


async def close_locked(conn: Connection, ledger: Ledger, run_id: str) -> None:
    """Close a run whose lock is held; the caller flushes."""
    locked = ledger.runs[run_id]
    if locked.closed:
        return
    await run(conn, _CLOSE, {"run_id": run_id})
    locked.closed = True
    locked.changed = True
    ledger.event(run_id, "run.closed")


async def delete_locked(conn: Connection, ledger: Ledger, run_id: str) -> bool:
    """Delete a locked run if nothing of it lives any more; False leaves it as it is."""
    locked = ledger.runs[run_id]
    if any(locked.count(status) for status in LIVE):
        return False
    await run(conn, _DELETE, {"run_id": run_id})
    data = encode({"runKey": locked.run_key}).decode()
    await run(conn, _DELETED, {"owner_id": locked.owner_id, "run_id": run_id, "data": data})
    return True


async def request_delete(conn: Connection, ledger: Ledger, run_id: str) -> None:
    """Remember that a locked run is to be deleted; from now on it takes nothing new."""
    locked = ledger.runs[run_id]
    if not locked.deleting:
        await run(conn, _REQUEST_DELETE, {"run_id": run_id})
        locked.deleting = True
        ledger.event(run_id, "run.delete_requested")


async def finish_deletes(conn: Connection) -> tuple[int, int]:
    """Delete the runs that wait for it and have nothing live: how many, and how many still wait."""
    found = await rows(conn, _DELETING)
    idle = [run_id for run_id, is_idle in found if is_idle]
    gone = 0
    if idle:
        ledger = await Ledger.lock(conn, idle)
        for run_id in ledger.runs:
            gone += await delete_locked(conn, ledger, run_id)
    return gone, len(found) - gone


async def forget_deleted(conn: Connection, kept_s: float) -> int:
    """Remove the events of runs that were deleted longer ago than that; of how many runs."""
    return await run(conn, _FORGET_DELETED, {"kept_s": kept_s})


def require_kept(ledger: Ledger, run_id: str) -> None:
    """Refuse to bring back to life what is being deleted."""
    if ledger.runs[run_id].deleting:
        raise _deleting(ledger.runs[run_id].run_key)


def _deleting(key: str) -> ApiError:
    return ApiError(
        "run_deleting",
        f"run {key!r} is being deleted",
        "wait until it is gone (`flakes runs delete --wait`), or choose another run key",
    )


def require_open(ledger: Ledger, run_id: str) -> None:
    """Refuse new top-level work for a closed or cancelled run."""
    require_kept(ledger, run_id)
    locked = ledger.runs[run_id]
    if locked.closed or locked.cancelled:
        what = "cancelled" if locked.cancelled else "closed"
        raise ApiError("run_closed", f"run {locked.run_key!r} is {what}", "create another run")


def _run(found: tuple[Any, ...]) -> Run:
    (run_id, key, name, project_id, project_key, state, closed, cancelled, deleting, counts, metadata,
     budget, workspace_id, created_at, updated_at, completed_at) = found  # fmt: skip
    return Run(
        run_id=run_id, run_key=key, name=name, project_id=project_id, project_key=project_key,
        state=state, closed=closed, cancel_requested=cancelled, deleting=deleting, metadata=metadata, budget=budget, workspace_id=workspace_id,
        task_counts={str(s): n for s, n in zip(STATUSES, counts, strict=True) if n},
        created_at=created_at, updated_at=updated_at, completed_at=completed_at,
    )  # fmt: skip


def digest_of(body: msgspec.Struct) -> bytes:
    """A digest that is equal for equal bodies, however their JSON was written."""
    return hashlib.sha256(msgspec.json.encode(body, order="sorted")).digest()
