"""The queue of handles that are to be brought into what their runs have selected: rows, nothing of git.

A handle that a live attempt stores is entered with it (`enter`), which keeps the run open until it is settled.
Whoever settles an entry has locked its run and found it open still, so that two who try do it once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from flakes.core.merging import Entry, MergeState
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.ledger import Ledger
from flakes.wire.codec import encode
from flakes.wire.merging import Merging, WorkspaceMerge
from flakes.wire.operations import PROMOTE
from flakes.wire.workspaces import SELECTED

NAMED_MAX = 20
"""Paths that are told of a conflict."""

# Only in a run that has selected something, and brings in what its tasks leave. Where a task may select by itself,
# what its children leave is its to decide about.
_ENTER = Query("""
    with recursive above(task_id) as (
        select parent_task_id from tasks where task_id = %(task_id)s
        union
        select t.parent_task_id from above join tasks t on t.task_id = above.task_id
    )
    insert into workspace_merges (workspace_id, run_id, task_id, assignment_id)
    select %(workspace_id)s, r.run_id, %(task_id)s, %(assignment_id)s from runs r
    where r.run_id = %(run_id)s and coalesce((r.merge_policy ->> 'promote')::boolean, true)
      and exists (select from workspace_refs s where s.run_id = r.run_id and s.name = %(ref)s)
      and not exists (select from above join task_payloads d on d.task_id = above.task_id
                      where d.definition::jsonb -> 'toolGrants' ? %(grant)s)
    on conflict do nothing""")

_DUE = Query("""
    select distinct m.run_id from workspace_merges m
    join assignments a on a.assignment_id = m.assignment_id
    join runs r on r.run_id = m.run_id
    where m.settled_at is null and (not a.live or r.cancel_requested_at is not null)""")

_OPEN = Query("""
    select m.workspace_id, m.task_id, w.kind, m.state, a.live, a.state, t.status,
           coalesce(extract(epoch from t.finished_at), 0)::float8, m.helper_task_id, h.status,
           exists (select from workspace_merges v
                   where v.helper_task_id = m.task_id and v.state in ('verifying', 'unverified')),
           m.merged_id, m.selected_id, m.assignment_id, t.task_key, m.paths
    from workspace_merges m
    join workspaces w on w.workspace_id = m.workspace_id
    join assignments a on a.assignment_id = m.assignment_id
    join tasks t on t.task_id = m.task_id
    left join tasks h on h.task_id = m.helper_task_id
    where m.run_id = %(run_id)s and m.settled_at is null""")

_IS_OPEN = Query("""
    select state from workspace_merges
    where workspace_id = %(workspace_id)s and settled_at is null for update""")

_SET = Query("""
    update workspace_merges
    set state = %(state)s, selected_id = coalesce(%(selected_id)s, selected_id),
        merged_id = coalesce(%(merged_id)s, merged_id),
        helper_task_id = coalesce(%(helper_task_id)s, helper_task_id),
        paths = coalesce(%(paths)s::json, paths), reason = coalesce(%(reason)s, reason),
        settled_at = case when %(settled)s then now() end
    where workspace_id = %(workspace_id)s""")

_POLICY = Query("""
    select merge_policy, cancel_requested_at is not null, owner_id from runs where run_id = %(run_id)s""")

_COLUMNS = """m.workspace_id, m.task_id, t.task_key, m.state, m.selected_id, m.merged_id, m.helper_task_id,
    m.paths, m.reason, m.created_at, m.settled_at"""

_OF_RUN = Query(f"""
    select {_COLUMNS} from workspace_merges m join tasks t on t.task_id = m.task_id
    where m.run_id = %(run_id)s
      and (m.settled_at is null or m.workspace_id = any(%(workspace_ids)s::text[]))
    order by m.workspace_id""")

_NOT_IN = Query(f"""
    select {_COLUMNS} from workspace_merges m join tasks t on t.task_id = m.task_id
    where m.run_id = %(run_id)s
      and m.state in ('queued', 'verifying', 'resolving', 'conflict', 'unverified')
    order by m.workspace_id desc limit %(limit)s""")

# Of each task the entry that says most: an open one, one that went wrong, else the last.
_OF_TASKS = Query(f"""
    select distinct on (m.task_id) {_COLUMNS}
    from workspace_merges m join tasks t on t.task_id = m.task_id
    where m.task_id = any(%(task_ids)s)
    order by m.task_id, m.settled_at is not null,
             m.state in ('conflict', 'unverified', 'failed') desc, m.state <> 'kept' desc,
             m.workspace_id desc""")


@dataclass(frozen=True, slots=True)
class Open:
    """An open entry as the rule sees it, and what the rule does not need."""

    entry: Entry
    merged_id: str | None
    selected_id: str | None
    assignment_id: str
    task_key: str
    paths: list[str]
    """That conflict."""


@dataclass(frozen=True, slots=True)
class RunMerging:
    """A run whose handles may be brought in."""

    run_id: str
    owner_id: str
    policy: Merging
    cancelled: bool
    open: dict[str, Open]


async def enter(
    conn: Connection, ledger: Ledger, run_id: str, task_id: str, assignment_id: str, workspace_id: str
) -> None:
    """Enter a handle that a live attempt has just stored; the run is locked."""
    entered = await run(conn, _ENTER, {
        "workspace_id": workspace_id, "run_id": run_id, "task_id": task_id,
        "assignment_id": assignment_id, "ref": SELECTED, "grant": PROMOTE,
    })  # fmt: skip
    if entered:
        ledger.merge(run_id, entered)


async def due(conn: Connection) -> list[str]:
    """Runs in which an entry's attempt has ended, oldest first."""
    return sorted(found[0] for found in await rows(conn, _DUE))


async def load(conn: Connection, run_id: str) -> RunMerging | None:
    """What is open in a run; None when there is no such run."""
    found = await row(conn, _POLICY, {"run_id": run_id})
    if found is None:
        return None
    policy = Merging() if found[0] is None else msgspec.convert(found[0], Merging)
    opened = [_open(each) for each in await rows(conn, _OPEN, {"run_id": run_id})]
    by_id = {each.entry.workspace_id: each for each in opened}
    return RunMerging(run_id, found[2], policy, found[1], by_id)


async def still_open(conn: Connection, workspace_id: str) -> bool:
    """Whether it is, in a transaction that has locked its run."""
    return await row(conn, _IS_OPEN, {"workspace_id": workspace_id}) is not None


async def move(
    conn: Connection,
    ledger: Ledger,
    run_id: str,
    workspace_id: str,
    state: MergeState,
    *,
    selected_id: str | None = None,
    merged_id: str | None = None,
    helper_task_id: str | None = None,
    paths: Sequence[str] | None = None,
    reason: str | None = None,
) -> None:
    """Give an open entry of a locked run another state; one that is not open settles it."""
    settled = state not in (MergeState.QUEUED, MergeState.VERIFYING, MergeState.RESOLVING)
    await run(conn, _SET, {
        "workspace_id": workspace_id, "state": str(state), "selected_id": selected_id,
        "merged_id": merged_id, "helper_task_id": helper_task_id, "reason": reason, "settled": settled,
        "paths": None if paths is None else encode(list(paths[:NAMED_MAX])).decode(),
    })  # fmt: skip
    if settled:
        ledger.merge(run_id, -1)


async def of_run(
    conn: Connection, run_id: str, workspace_ids: Collection[str]
) -> list[WorkspaceMerge]:
    """Everything that is open in a run, and what became of these handles."""
    params = {"run_id": run_id, "workspace_ids": sorted(workspace_ids)}
    return [_merge(found) for found in await rows(conn, _OF_RUN, params)]


async def not_in(conn: Connection, run_id: str, limit: int) -> list[WorkspaceMerge]:
    """What is not brought in and may be, newest first."""
    params = {"run_id": run_id, "limit": limit}
    return [_merge(found) for found in await rows(conn, _NOT_IN, params)]


async def of_tasks(conn: Connection, task_ids: Collection[str]) -> dict[str, WorkspaceMerge]:
    """What is most worth telling of what these tasks left, by task id."""
    if not task_ids:
        return {}
    found = await rows(conn, _OF_TASKS, {"task_ids": sorted(task_ids)})
    return {each.task_id: each for each in map(_merge, found)}


def _open(found: tuple[Any, ...]) -> Open:
    (workspace_id, task_id, kind, state, live, attempt, status, ended_at, helper_id, helper, tests,
     merged_id, selected_id, assignment_id, task_key, paths) = found  # fmt: skip
    stands = "live" if live else "succeeded" if attempt == "succeeded" else "failed"
    if stands == "succeeded" and status != "SUCCEEDED":
        stands = "failed"
    helping = defaultdict(lambda: "live", SUCCEEDED="succeeded", FAILED="failed", CANCELLED="failed")
    entry = Entry(
        workspace_id, task_id, kind, MergeState(state), stands, (ended_at, workspace_id), helper_id,
        None if helper is None else helping[helper], tests,  # type: ignore[arg-type]
    )  # fmt: skip
    return Open(entry, merged_id, selected_id, assignment_id, task_key, paths or [])


def _merge(found: tuple[Any, ...]) -> WorkspaceMerge:
    (workspace_id, task_id, task_key, state, selected_id, merged_id, helper_id, paths, reason, created_at,
     settled_at) = found  # fmt: skip
    return WorkspaceMerge(
        workspace_id=workspace_id, task_id=task_id, task_key=task_key, state=state,
        selected_workspace_id=selected_id, merged_workspace_id=merged_id, helper_task_id=helper_id,
        paths=paths, reason=reason, created_at=created_at, settled_at=settled_at,
    )  # fmt: skip
