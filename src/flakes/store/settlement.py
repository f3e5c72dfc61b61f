"""What the end of tasks does to those that depend on them.

Success is the hot path and one set-based statement: it counts down, and what reaches zero is queued. A
bad end takes the slow path: the blocked tasks behind it are loaded, `core.graph.settle` decides the whole
cascade, and the result is written. A property test holds the statement and the pure rule together. Both
run under the lock of the run (see `ledger`).
"""

from __future__ import annotations

from collections.abc import Collection

from flakes.core.graph import BlockedTask, DependencyFailurePolicy, settle
from flakes.core.task import TaskEvent, TaskStatus
from flakes.store.database import Connection, Query, rows, run
from flakes.store.ledger import Ledger
from flakes.wire.codec import encode

COUNT_DOWN = Query("""
    with arrived as (
        select task_id, count(*) as n from task_dependencies
        where depends_on = any(%(task_ids)s) group by task_id
    ), moved as (
        update tasks t
        set pending_count = t.pending_count - a.n,
            status = case when t.pending_count = a.n then 'QUEUED' else t.status end,
            queued_at = case when t.pending_count = a.n then now() end
        from arrived a
        where t.task_id = a.task_id and t.status = 'BLOCKED'
        returning t.task_id, t.run_id, t.class_id, t.priority, t.optional, t.pending_count
    ), queued as (
        insert into ready_tasks (task_id, class_id, run_id, priority, queued_at)
        select task_id, class_id, run_id, priority, now() from moved where pending_count = 0
    )
    select task_id, run_id, optional, pending_count from moved""")

DOWNSTREAM = Query("""
    with recursive down as (
        select d.task_id from task_dependencies d join tasks t on t.task_id = d.task_id
        where d.depends_on = any(%(task_ids)s) and t.status = 'BLOCKED'
        union
        select d.task_id from down
        join task_dependencies d on d.depends_on = down.task_id
        join tasks t on t.task_id = d.task_id
        where t.status = 'BLOCKED'
    )
    select t.task_id, t.run_id, t.failure_policy, t.optional, d.depends_on, s.status, s.task_key,
           t.parent_task_id is not null or t.child_count > 0 or t.wait_count > 0
    from down
    join tasks t on t.task_id = down.task_id
    join task_dependencies d on d.task_id = t.task_id
    join tasks s on s.task_id = d.depends_on""")

WRITE_BLOCKED = Query("""
    with u as (
        select * from unnest(%(task_ids)s::text[], %(statuses)s::text[], %(pending)s::integer[],
                             %(errors)s::json[]) as u(task_id, status, pending_count, error)
    ), moved as (
        update tasks t
        set status = u.status, pending_count = u.pending_count, error = u.error,
            queued_at = case when u.status = 'QUEUED' then now() end,
            finished_at = case when u.status in ('FAILED', 'CANCELLED') then now() end
        from u where t.task_id = u.task_id
        returning t.task_id, t.run_id, t.class_id, t.priority, t.status
    )
    insert into ready_tasks (task_id, class_id, run_id, priority, queued_at)
    select task_id, class_id, run_id, priority, now() from moved where status = 'QUEUED'""")


async def after_success(conn: Connection, ledger: Ledger, task_ids: Collection[str]) -> int:
    """Count down behind tasks that succeeded; how many became ready."""
    moved = await rows(conn, COUNT_DOWN, {"task_ids": list(task_ids)})
    ready = 0
    for task_id, run_id, optional, pending in moved:
        if pending:
            # What holds it back now may be a task that waits for it.
            if ledger.runs[run_id].count(TaskStatus.WAITING):
                ledger.stuck.add(run_id)
            continue
        ready += 1
        ledger.move(run_id, TaskStatus.BLOCKED, TaskStatus.QUEUED, optional=optional)
        ledger.event(run_id, "task.queued", task_id, {"reason": "dependencies_done"})
    return ready


async def after_failure(conn: Connection, ledger: Ledger, task_ids: Collection[str]) -> int:
    """Settle everything blocked behind tasks that failed or were cancelled; how many became ready.

    The ended tasks' own rows must be written before this is called: it reads their states.
    """
    blocked: dict[str, tuple[str, str, bool, list[str]]] = {}
    concerning: set[str] = set()
    statuses: dict[str, TaskStatus] = {}
    keys: dict[str, str] = {}
    for task_id, run_id, policy, optional, depends_on, status, key, concerns in await rows(
        conn, DOWNSTREAM, {"task_ids": list(task_ids)}
    ):
        if concerns:
            concerning.add(task_id)
        blocked.setdefault(task_id, (run_id, policy, optional, []))[3].append(depends_on)
        statuses[depends_on] = TaskStatus(status)
        keys[depends_on] = key
    tasks = [
        BlockedTask(task_id, DependencyFailurePolicy(policy), tuple(dependencies))
        for task_id, (_, policy, _, dependencies) in blocked.items()
    ]
    events = settle(tasks, statuses)
    if not blocked:
        return 0
    new = {TaskEvent.UNBLOCKED: TaskStatus.QUEUED, TaskEvent.DEPENDENCY_FAILED: TaskStatus.FAILED,
           TaskEvent.DEPENDENCY_CANCELLED: TaskStatus.CANCELLED}  # fmt: skip
    final = statuses | {task_id: new[event] for task_id, event in events.items()}
    writes: list[tuple[str, str, int, str | None]] = []
    ready = 0
    for task in tasks:
        run_id, policy, optional, dependencies = blocked[task.task_id]
        event = events.get(task.task_id)
        if event is None:
            pending = sum(not satisfies(final[d], policy) for d in dependencies)
            writes.append((task.task_id, TaskStatus.BLOCKED, pending, None))
            ledger.stuck.add(run_id)
            continue
        status = new[event]
        ledger.move(run_id, TaskStatus.BLOCKED, status, optional=optional)
        if status is TaskStatus.QUEUED:
            ready += 1
            writes.append((task.task_id, status, 0, None))
            ledger.event(run_id, "task.queued", task.task_id, {"reason": "dependencies_done"})
            continue
        bad = sorted(
            keys[d] for d in dependencies
            if final[d] in (TaskStatus.FAILED, TaskStatus.CANCELLED)
        )  # fmt: skip
        error = {
            "code": str(event),
            "message": f"dependency {', '.join(bad)} did not succeed",
            "details": {"dependencies": bad},
        }
        writes.append((task.task_id, status, 0, encode(error).decode()))
        type_ = "task.failed" if status is TaskStatus.FAILED else "task.cancelled"
        ledger.event(run_id, type_, task.task_id, {"error": error})
        ledger.end(task.task_id, concerns=task.task_id in concerning)
    await run(conn, WRITE_BLOCKED, {
        "task_ids": [w[0] for w in writes], "statuses": [str(w[1]) for w in writes],
        "pending": [w[2] for w in writes], "errors": [w[3] for w in writes],
    })  # fmt: skip
    return ready


def satisfies(status: TaskStatus, policy: str) -> bool:
    """Whether a dependency in this state no longer holds back a task of this policy."""
    if status is TaskStatus.SUCCEEDED:
        return True
    return policy == DependencyFailurePolicy.CONTINUE and status in (
        TaskStatus.FAILED,
        TaskStatus.CANCELLED,
    )
