"""Cancelling tasks of a locked run, whoever asks: a person, the end of their parent, or their group.

What does not run is cancelled at once. What runs is asked to stop: it stays RUNNING until its sandbox
confirms that nothing of it is left (F12), and the attempts to tell that go into the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flakes.core.task import TaskStatus
from flakes.store import settlement
from flakes.store.database import Connection, Query, rows, run
from flakes.store.ledger import Ledger
from flakes.wire.codec import encode

_UNREADY = Query("delete from ready_tasks where task_id = any(%(task_ids)s)")

_WITHDRAW = Query("""
    update assignments set state = 'cancelled', live = false, ended_at = now(), reason = %(reason)s
    where task_id = any(%(task_ids)s) and live and state = 'offered'
    returning sandbox_id, assignment_id""")

_CANCEL = Query("""
    update tasks set status = 'CANCELLED', finished_at = now(), next_attempt_at = null,
        cancel_requested_at = now(), cancel_reason = %(reason)s, error = %(error)s::json
    where task_id = any(%(task_ids)s)""")

_REQUEST_CANCEL = Query("""
    update tasks set cancel_requested_at = now(), cancel_reason = %(reason)s
    where task_id = any(%(task_ids)s) and cancel_requested_at is null
    returning task_id""")

_LIVE_OF = Query("""
    select sandbox_id, assignment_id from assignments
    where task_id = any(%(task_ids)s) and live and state = 'accepted'""")


@dataclass(frozen=True, slots=True)
class Live:
    """A task that has not ended. `concerns`: it has a parent, children or waits."""

    task_id: str
    run_id: str
    status: str
    optional: bool
    concerns: bool


async def cancel(
    conn: Connection,
    ledger: Ledger,
    found: Sequence[Live],
    reason: str | None,
    *,
    settles: bool = True,
) -> int:
    """Cancel these; how many tasks became ready by it. `settles` False leaves alone what depends on them,
    for when all of that is among them. The caller holds the runs' locks, settles joins, and flushes."""
    ready = 0
    still = [each for each in found if each.status != TaskStatus.RUNNING]
    running = {each.task_id: each for each in found if each.status == TaskStatus.RUNNING}
    if still:
        ids = [each.task_id for each in still]
        # The scheduler may be offering one of these: its claim holds the ready row until it commits,
        # so after this delete every offer is visible to the next statement.
        await run(conn, _UNREADY, {"task_ids": ids})
        text = reason or "cancelled"
        ledger.stops += await rows(conn, _WITHDRAW, {"task_ids": ids, "reason": text})
        error = {"code": "cancelled", "message": text}
        params = {"task_ids": ids, "reason": reason, "error": encode(error).decode()}
        await run(conn, _CANCEL, params)
        for each in still:
            ledger.move(
                each.run_id, TaskStatus(each.status), TaskStatus.CANCELLED, optional=each.optional
            )
            data = {"reason": reason, "from": each.status}
            ledger.event(each.run_id, "task.cancelled", each.task_id, data)
            ledger.end(each.task_id, concerns=each.concerns)
        if settles:
            ready += await settlement.after_failure(conn, ledger, ids)
    if running:
        params = {"task_ids": list(running), "reason": reason}
        for (task_id,) in await rows(conn, _REQUEST_CANCEL, params):
            data = {"reason": reason}
            ledger.event(running[task_id].run_id, "task.cancel_requested", task_id, data)
        ledger.stops += await rows(conn, _LIVE_OF, {"task_ids": list(running)})
    return ready
