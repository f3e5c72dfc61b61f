"""What the pictures of a run are drawn from: its graph by keys, and every attempt of every task."""

from __future__ import annotations

from flakes.store import runs
from flakes.store.database import Connection, Query, rows
from flakes.wire.tasks import RunAttempt

_KEYS = Query("select task_key from tasks where run_id = %(run_id)s order by task_id")

_EDGES = Query("""
    select t.task_key, s.task_key
    from tasks t join task_dependencies d on d.task_id = t.task_id join tasks s on s.task_id = d.depends_on
    where t.run_id = %(run_id)s order by t.task_id, s.task_id""")

_SPAWNED = Query("""
    select t.task_key, p.task_key from tasks t join tasks p on p.task_id = t.parent_task_id
    where t.run_id = %(run_id)s order by t.task_id""")

_ATTEMPTS = Query("""
    select a.assignment_id, a.task_id, a.attempt, a.sandbox_id, a.state, a.offered_at, a.accepted_at,
           a.ended_at, a.reason
    from assignments a
    where a.task_id in (select task_id from tasks where run_id = %(run_id)s)
      and a.assignment_id > %(after)s
    order by a.assignment_id limit %(limit)s""")


async def graph(
    conn: Connection, owner_id: str, reference: str
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The keys of a run's tasks in the order they were saved, each with the keys it depends on; and of those that
    a task made, the key of that task."""
    run_id = await runs.resolve(conn, owner_id, reference)
    found: dict[str, list[str]] = {key: [] for (key,) in await rows(conn, _KEYS, {"run_id": run_id})}
    for key, need in await rows(conn, _EDGES, {"run_id": run_id}):
        found.setdefault(key, []).append(need)
    return found, dict(await rows(conn, _SPAWNED, {"run_id": run_id}))


async def attempts(
    conn: Connection, owner_id: str, reference: str, *, after: str | None, limit: int
) -> list[RunAttempt]:
    """Attempts of all tasks of a run, oldest first."""
    run_id = await runs.resolve(conn, owner_id, reference)
    params = {"run_id": run_id, "after": after or "", "limit": limit}
    return [
        RunAttempt(
            assignment_id=assignment, task_id=task, attempt=number, sandbox_id=sandbox, state=state,
            offered_at=offered, accepted_at=accepted, ended_at=ended, reason=reason,
        )
        for assignment, task, number, sandbox, state, offered, accepted, ended, reason in await rows(
            conn, _ATTEMPTS, params
        )
    ]  # fmt: skip
