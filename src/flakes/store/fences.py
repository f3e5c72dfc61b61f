"""The fence before everything that a task does: is this assignment still the one that may act?

`hold` answers inside the transaction of the mutation and keeps a share lock on the assignment until that
ends, so an assignment cannot end between the question and the write (F03). Whoever needs the run's lock
too takes it first: ends of assignments lock runs before assignments.
"""

from __future__ import annotations

from dataclasses import dataclass

from flakes.store.database import Connection, Query, row, run
from flakes.wire.codec import encode

_HOLD = Query("""
    select a.assignment_id, a.sandbox_id, a.attempt, a.task_id, t.task_key, a.run_id, r.owner_id
    from assignments a
    join tasks t on t.task_id = a.task_id
    join runs r on r.run_id = a.run_id
    where a.assignment_id = %(assignment_id)s and a.sandbox_id = %(sandbox_id)s
      and a.state = 'accepted'
    for share of a""")

_GRANTED = Query("""
    select coalesce(definition::jsonb -> 'toolGrants' ? %(grant)s, false)
    from task_payloads where task_id = %(task_id)s""")

_NOTE_REFUSED = Query("""
    insert into events (owner_id, run_id, task_id, type, data)
    select r.owner_id, a.run_id, a.task_id, 'attempt.refused', %(data)s::json
    from assignments a join runs r on r.run_id = a.run_id
    where a.assignment_id = %(assignment_id)s and r.owner_id = %(owner_id)s""")


@dataclass(frozen=True, slots=True)
class Holder:
    """A live, accepted assignment, and the task that it acts for."""

    assignment_id: str
    sandbox_id: str
    attempt: int
    task_id: str
    task_key: str
    run_id: str
    owner_id: str


async def hold(conn: Connection, sandbox_id: str, assignment_id: str) -> Holder | None:
    """The assignment, locked against its end for this transaction; None when it is not live, not accepted
    or not this sandbox's."""
    params = {"assignment_id": assignment_id, "sandbox_id": sandbox_id}
    found = await row(conn, _HOLD, params)
    return Holder(*found) if found else None


async def is_granted(conn: Connection, task_id: str, grant: str) -> bool:
    """Whether the task's definition has this tool grant."""
    found = await row(conn, _GRANTED, {"task_id": task_id, "grant": grant})
    return bool(found and found[0])


async def note_refused(
    conn: Connection, owner_id: str, sandbox_id: str, assignment_id: str, what: str
) -> bool:
    """Put the refusal into the activity of the task (F30); False when the owner has no such assignment."""
    data = {"assignmentId": assignment_id, "what": what, "sandboxId": sandbox_id}
    return bool(await run(conn, _NOTE_REFUSED, {
        "assignment_id": assignment_id, "owner_id": owner_id, "data": encode(data).decode(),
    }))  # fmt: skip
