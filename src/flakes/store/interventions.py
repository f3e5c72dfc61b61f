"""What people do to live work: cancel a task or a run, retry what failed.

A queued task is cancelled at once. A running one is asked to stop: it stays RUNNING until its sandbox
confirms that nothing of it is left (F12), so the caller gets the assignments to deliver a cancel to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flakes.core.graph import BlockedTask, DependencyFailurePolicy, settle
from flakes.core.task import TERMINAL, TaskEvent, TaskStatus
from flakes.store import cancels, joins, runs, settlement
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.ledger import Ledger
from flakes.wire.errors import ApiError, not_found

_FIND = Query("""
    select t.task_id, t.run_id from tasks t join runs r using (run_id)
    where t.task_id = %(task_id)s and r.owner_id = %(owner_id)s""")

_TASKS = Query("""
    select task_id, run_id, status, optional,
           parent_task_id is not null or child_count > 0 or wait_count > 0
    from tasks
    where run_id = %(run_id)s and (%(task_ids)s::text[] is null or task_id = any(%(task_ids)s))
      and status = any(%(statuses)s)""")

# What was cancelled before its admission has no edges and was never checked: there is nothing to retry.
_RETRYABLE = Query("""
    select task_id from tasks
    where run_id = %(run_id)s and (%(task_ids)s::text[] is null or task_id = any(%(task_ids)s))
      and status in ('FAILED', 'CANCELLED') and admitted_at is not null""")

_CANCEL_RUN = Query("""
    update runs set cancel_requested_at = coalesce(cancel_requested_at, now()),
        cancel_reason = coalesce(cancel_reason, %(reason)s)
    where run_id = %(run_id)s""")

_REOPEN_RUN = Query("""
    update runs set cancel_requested_at = null, cancel_reason = null where run_id = %(run_id)s""")

_DEPENDENCIES = Query("""
    select d.task_id, d.depends_on, s.status, s.task_key from task_dependencies d
    join tasks s on s.task_id = d.depends_on
    where d.task_id = any(%(task_ids)s)""")

_BLOCKED_BEHIND = Query("""
    select distinct t.task_id, t.failure_policy from task_dependencies d
    join tasks t on t.task_id = d.task_id
    where d.depends_on = any(%(task_ids)s) and t.status = 'BLOCKED'""")

_FAILED_BEHIND = Query("""
    with recursive behind as (
        select d.task_id from task_dependencies d join tasks t on t.task_id = d.task_id
        where d.depends_on = any(%(task_ids)s) and t.status in ('FAILED', 'CANCELLED')
        union
        select d.task_id from behind join task_dependencies d on d.depends_on = behind.task_id
        join tasks t on t.task_id = d.task_id
        where t.status in ('FAILED', 'CANCELLED')
    )
    select t.task_id from behind join tasks t using (task_id)
    where t.error ->> 'code' in ('dependency_failed', 'dependency_cancelled')""")

_CANCELLED_WITH = Query("""
    with recursive below as (
        select c.task_id from tasks c
        where c.parent_task_id = any(%(task_ids)s) and c.status = 'CANCELLED' and c.cancel_reason = %(reason)s
        union
        select c.task_id from below join tasks c on c.parent_task_id = below.task_id
        where c.status = 'CANCELLED' and c.cancel_reason = %(reason)s
    )
    select task_id from below""")

_POLICIES = Query("""
    select task_id, failure_policy, status, optional from tasks where task_id = any(%(task_ids)s)""")

_RESET = Query("""
    with u as (
        select * from unnest(%(task_ids)s::text[], %(pending)s::integer[]) as u(task_id, pending_count)
    ), moved as (
        update tasks t
        set status = case when u.pending_count = 0 then 'QUEUED' else 'BLOCKED' end,
            pending_count = u.pending_count, attempt = t.attempt + 1,
            attempts_max = t.attempt + coalesce((p.definition #>> '{retry,maxAttempts}')::integer, 1),
            losses = 0, error = null, finished_at = null,
            next_attempt_at = null, cancel_requested_at = null, cancel_reason = null,
            queued_at = case when u.pending_count = 0 then now() end
        from u join task_payloads p on p.task_id = u.task_id
        where t.task_id = u.task_id
        returning t.task_id, t.class_id, t.run_id, t.priority, t.pending_count
    ), forgotten as (
        delete from task_results where task_id in (select task_id from moved)
    )
    insert into ready_tasks (task_id, class_id, run_id, priority, queued_at)
    select task_id, class_id, run_id, priority, now() from moved where pending_count = 0""")

_SET_PENDING = Query("""
    update tasks t set pending_count = u.pending_count
    from unnest(%(task_ids)s::text[], %(pending)s::integer[]) as u(task_id, pending_count)
    where t.task_id = u.task_id""")


@dataclass(slots=True)
class Intervention:
    """What is to be delivered: (sandbox id, assignment id) pairs to cancel; and whether to schedule."""

    run_id: str
    cancel: list[tuple[str, str]] = field(default_factory=list)
    ready: int = 0
    settled: list[str] = field(default_factory=list)
    """Waits that are over with it."""


async def cancel_task(
    conn: Connection, owner_id: str, task_id: str, reason: str | None
) -> Intervention:
    """Cancel one task. An ended one stays as it is."""
    run_id = await _run_of(conn, owner_id, task_id)
    ledger = await Ledger.lock(conn, [run_id])
    done = await _cancel(conn, ledger, run_id, [task_id], reason)
    await ledger.flush(conn)
    return done


async def cancel_run(
    conn: Connection, owner_id: str, reference: str, reason: str | None
) -> Intervention:
    """Stop everything of a run; from now on it takes no new task from anywhere."""
    run_id = await runs.resolve(conn, owner_id, reference)
    ledger = await Ledger.lock(conn, [run_id])
    done = await _cancel_locked_run(conn, ledger, run_id, reason)
    await ledger.flush(conn)
    return done


async def delete_run(
    conn: Connection, owner_id: str, reference: str
) -> tuple[Intervention, bool]:
    """Delete a run now if nothing of it lives (True); a live one is cancelled first, and the janitor
    deletes it once the last of it has ended."""
    run_id = await runs.resolve(conn, owner_id, reference)
    ledger = await Ledger.lock(conn, [run_id])
    if run_id not in ledger.runs:
        raise not_found("run")
    if await runs.delete_locked(conn, ledger, run_id):
        return Intervention(run_id), True
    await runs.request_delete(conn, ledger, run_id)
    done = await _cancel_locked_run(conn, ledger, run_id, "the run is deleted")
    await ledger.flush(conn)
    return done, await runs.delete_locked(conn, ledger, run_id)


async def _cancel_locked_run(
    conn: Connection, ledger: Ledger, run_id: str, reason: str | None
) -> Intervention:
    locked = ledger.runs[run_id]
    if not locked.cancelled and locked.completed_at is None:
        await run(conn, _CANCEL_RUN, {"run_id": run_id, "reason": reason})
        locked.cancelled = True
        locked.changed = True
        ledger.event(run_id, "run.cancel_requested", data={"reason": reason})
    return await _cancel(conn, ledger, run_id, None, reason)


async def _cancel(
    conn: Connection, ledger: Ledger, run_id: str, task_ids: list[str] | None, reason: str | None
) -> Intervention:
    live = [str(s) for s in TaskStatus if s not in TERMINAL]
    found = await rows(conn, _TASKS, {"run_id": run_id, "task_ids": task_ids, "statuses": live})
    ready = await cancels.cancel(
        conn, ledger, [cancels.Live(*fields) for fields in found], reason, settles=task_ids is not None
    )
    await joins.settle(conn, ledger)
    return Intervention(run_id, ledger.stops, ready + ledger.ready, ledger.settled)


async def retry_task(conn: Connection, owner_id: str, task_id: str) -> Intervention:
    """A new attempt of a failed or cancelled task; those that failed only because of it come back too.

    409 `task_not_retryable` for any other task, and for one that would fail again at once because of a
    dependency that is not retried with it.
    """
    run_id = await _run_of(conn, owner_id, task_id)
    ledger = await Ledger.lock(conn, [run_id])
    runs.require_kept(ledger, run_id)
    if not await rows(conn, _RETRYABLE, {"run_id": run_id, "task_ids": [task_id]}):
        raise ApiError("task_not_retryable", "the task has neither failed nor been cancelled since it was admitted", "look at its state with `flakes inspect`")
    done = await _retry(conn, ledger, run_id, [task_id], strict=True)
    await ledger.flush(conn)
    return done


async def retry_run(conn: Connection, owner_id: str, reference: str) -> Intervention:
    """Rerun from failed: a new attempt of every failed or cancelled task."""
    run_id = await runs.resolve(conn, owner_id, reference)
    ledger = await Ledger.lock(conn, [run_id])
    runs.require_kept(ledger, run_id)
    failed = [r[0] for r in await rows(conn, _RETRYABLE, {"run_id": run_id, "task_ids": None})]
    done = await _retry(conn, ledger, run_id, failed, strict=False)
    await ledger.flush(conn)
    return done


async def _retry(
    conn: Connection, ledger: Ledger, run_id: str, task_ids: list[str], *, strict: bool
) -> Intervention:
    behind = [r[0] for r in await rows(conn, _FAILED_BEHIND, {"task_ids": task_ids})]
    below = {"task_ids": [*task_ids, *behind], "reason": joins.PARENT_ENDED}
    children = [r[0] for r in await rows(conn, _CANCELLED_WITH, below)]
    ids = {*task_ids, *behind, *children}
    tasks = {r[0]: r[1:] for r in await rows(conn, _POLICIES, {"task_ids": sorted(ids)})}
    edges = await rows(conn, _DEPENDENCIES, {"task_ids": sorted(ids)})
    ending = _would_end_at_once(tasks, edges)
    if strict and not ending.isdisjoint(task_ids):
        bad = sorted({
            key for task_id, depends_on, status, key in edges
            if task_id in task_ids and depends_on not in ids and TaskStatus(status) in TERMINAL
            and not settlement.satisfies(TaskStatus(status), tasks[task_id][0])
        })  # fmt: skip
        raise ApiError("task_not_retryable", f"the task depends on {', '.join(bad)}, which did not succeed", "retry that one: what failed only because of it comes back with it", taskKeys=bad)
    ids -= ending
    if not ids:
        return Intervention(run_id)
    pending = dict.fromkeys(sorted(ids), 0)
    for task_id, depends_on, status, _ in edges:
        if task_id in pending and (
            depends_on in pending or not settlement.satisfies(TaskStatus(status), tasks[task_id][0])
        ):
            pending[task_id] += 1
    if ledger.runs[run_id].cancelled:
        await run(conn, _REOPEN_RUN, {"run_id": run_id})
        ledger.runs[run_id].cancelled = False
    await run(conn, _RESET, {"task_ids": list(pending), "pending": list(pending.values())})
    for task_id, waits in pending.items():
        _, status, optional = tasks[task_id]
        new = TaskStatus.BLOCKED if waits else TaskStatus.QUEUED
        ledger.move(run_id, TaskStatus(status), new, optional=optional)
        ledger.event(run_id, "task.queued", task_id, {"reason": "retried", "status": new})
    await _recount(conn, list(pending))
    await joins.reopen(conn, ledger, list(pending))
    ready = sum(not n for n in pending.values()) + ledger.ready
    return Intervention(run_id, ready=ready, settled=ledger.settled)


def _would_end_at_once(
    tasks: Mapping[str, tuple[str, str, bool]], edges: Iterable[tuple[str, str, str, str]]
) -> set[str]:
    """Which of these tasks would fail or be cancelled right after a reset, because of a dependency that is
    not among them."""
    statuses: dict[str, TaskStatus] = {}
    depends_on: defaultdict[str, list[str]] = defaultdict(list)
    for task_id, dependency, status, _ in edges:
        depends_on[task_id].append(dependency)
        if dependency not in tasks:
            statuses[dependency] = TaskStatus(status)
    blocked = [
        BlockedTask(task_id, DependencyFailurePolicy(policy), tuple(depends_on[task_id]))
        for task_id, (policy, _, _) in tasks.items()
    ]
    events = settle(blocked, statuses)
    return {task_id for task_id, event in events.items() if event is not TaskEvent.UNBLOCKED}


async def _recount(conn: Connection, task_ids: list[str]) -> None:
    """Blocked tasks that had counted a retried one as ended wait for it again."""
    blocked = {r[0]: r[1] for r in await rows(conn, _BLOCKED_BEHIND, {"task_ids": task_ids})}
    if not blocked:
        return
    pending = dict.fromkeys(blocked, 0)
    for task_id, _, status, _ in await rows(conn, _DEPENDENCIES, {"task_ids": list(blocked)}):
        pending[task_id] += not settlement.satisfies(TaskStatus(status), blocked[task_id])
    params = {"task_ids": list(pending), "pending": list(pending.values())}
    await run(conn, _SET_PENDING, params)


async def _run_of(conn: Connection, owner_id: str, task_id: str) -> str:
    found = await row(conn, _FIND, {"task_id": task_id, "owner_id": owner_id})
    if found is None:
        raise not_found("task")
    return found[1]
