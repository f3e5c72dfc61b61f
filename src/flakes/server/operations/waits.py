"""Operations of waiting, and of signals between a task and its parent or children."""

from __future__ import annotations

from typing import Final

from flakes.core.task import TaskStatus
from flakes.server.operations.act import Act, Handler
from flakes.store import signals, tasks, waits
from flakes.wire.waits import Signal, Wait


async def wait(act: Act) -> Wait:
    """Registered, then held for as long as the asker wants, then looked at again: only that answer, under the
    lock of the run, may tell the attempt to yield."""
    body = act.body
    async with act.locked() as (conn, holder, ledger):
        found = await waits.ask(
            conn, ledger, holder, body, yields=body.yields and not body.hold_s
        )
    act.plane.joined(ledger)
    if found.state != "pending" or not body.hold_s:
        return found
    await hold(act, found.wait_id, body.hold_s)
    async with act.locked() as (conn, holder, ledger):
        return await waits.ask(conn, ledger, holder, body, yields=body.yields)


async def hold(act: Act, wait_id: str, hold_s: float) -> None:
    """Until the wait is over, at most `hold_s`."""

    async def look() -> Wait:
        async with act.plane.database.connection() as conn:
            return await waits.get(conn, wait_id)

    await act.plane.held.until(wait_id, look, lambda found: found.state != "pending", hold_s)


async def send(act: Act) -> Signal:
    body = act.body
    async with act.locked() as (conn, holder, ledger):
        task_id, status = await tasks.relative(conn, holder.task_id, body.task)
        signal = await signals.send(
            conn, ledger, holder.run_id, (task_id, TaskStatus(status)), body.name, body.payload,
            holder.task_id, body.operation_id,
        )  # fmt: skip
    act.plane.joined(ledger)
    return signal


HANDLERS: Final[dict[str, Handler]] = {"task.wait": wait, "task.signal": send}
