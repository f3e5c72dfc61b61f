"""Signals: something happened outside, told to a task by name, and kept until a wait of it takes it.

Sending and waiting both hold the lock of the run, so a signal finds the wait or the wait finds the signal.
"""

from __future__ import annotations

from typing import Any

from flakes.core import limits
from flakes.core.task import TERMINAL, TaskStatus
from flakes.store import joins, tasks
from flakes.store.database import Connection, Query, row, run
from flakes.store.definitions import check_key, check_size
from flakes.store.identifiers import new_id
from flakes.store.ledger import Ledger
from flakes.wire.codec import encode
from flakes.wire.errors import ApiError
from flakes.wire.waits import Signal

_INSERT = Query("""
    insert into signals (signal_id, run_id, task_id, name, payload, sender, operation_id, wait_id)
    values (%(signal_id)s, %(run_id)s, %(task_id)s, %(name)s, %(payload)s::json, %(sender)s,
            %(operation_id)s, %(wait_id)s)
    on conflict (task_id, sender, operation_id) do nothing""")

_GET = Query("""
    select signal_id, task_id, name, payload, wait_id is not null, created_at from signals
    where signal_id = %(signal_id)s
       or (task_id = %(task_id)s and sender = %(sender)s and operation_id = %(operation_id)s)""")

_WAITING = Query("""
    select wait_id from waits
    where task_id = %(task_id)s and signal_name = %(name)s and state = 'pending'
    order by wait_id limit 1""")

_UNREAD = Query("select count(*) from signals where task_id = %(task_id)s and wait_id is null")

_TAKE = Query("""
    update signals set wait_id = %(wait_id)s
    where signal_id = (
        select signal_id from signals
        where task_id = %(task_id)s and name = %(name)s and wait_id is null order by signal_id limit 1)
    returning signal_id, payload""")


async def post(
    conn: Connection, owner_id: str, task_id: str, name: str, payload: Any, sender: str
) -> tuple[Signal, Ledger]:
    """Store a signal of a person to a task; the ledger says what it woke. 409 `task_ended`."""
    run_id, _ = await tasks.require(conn, owner_id, task_id)
    ledger = await Ledger.lock(conn, [run_id])
    _, status = await tasks.require(conn, owner_id, task_id)
    signal = await send(conn, ledger, run_id, (task_id, status), name, payload, sender, None)
    await ledger.flush(conn)
    return signal, ledger


async def send(
    conn: Connection,
    ledger: Ledger,
    run_id: str,
    target: tuple[str, TaskStatus],
    name: str,
    payload: Any,
    sender: str,
    operation_id: str | None,
) -> Signal:
    """Hand it to the oldest wait for it, or keep it. The caller holds the lock of the run, and flushes."""
    check_key("signal", name)
    check_size("payload", payload, limits.SIGNAL_SIZE_BYTES_MAX)
    task_id, status = target
    key = {"task_id": task_id, "sender": sender, "operation_id": operation_id}
    known = None if operation_id is None else await row(conn, _GET, key | {"signal_id": ""})
    if known is not None:
        if (known[2], known[3]) != (name, payload):
            raise ApiError("operation_conflict", "this operation id was used for another signal", "use a new operation id for a new signal")
        return _signal(known)
    if status in TERMINAL:
        raise ApiError("task_ended", f"the task is {status}", "send it to a task that lives", status=status)
    unread = await row(conn, _UNREAD, {"task_id": task_id})
    if unread is not None and unread[0] >= limits.SIGNALS_UNREAD_MAX:
        raise ApiError("limit_exceeded", f"the task has {unread[0]} signals that nothing has waited for", "wait until it takes them", limit=limits.SIGNALS_UNREAD_MAX)
    waiting = await row(conn, _WAITING, {"task_id": task_id, "name": name})
    signal_id = new_id("signal")
    await run(conn, _INSERT, key | {
        "signal_id": signal_id, "run_id": run_id, "name": name, "payload": encode(payload).decode(),
        "wait_id": waiting[0] if waiting else None,
    })  # fmt: skip
    ledger.event(run_id, "signal.sent", task_id, {"signalId": signal_id, "name": name})
    if waiting:
        outcome = {"payload": payload, "signalId": signal_id}
        await joins.settle_waits(conn, ledger, [(waiting[0], "settled", outcome)])
    found = await row(conn, _GET, key | {"signal_id": signal_id})
    assert found is not None
    return _signal(found)


async def take(conn: Connection, task_id: str, name: str, wait_id: str) -> dict[str, Any] | None:
    """Give a wait the oldest signal of that name which nobody has; the outcome of the wait, or None."""
    found = await row(conn, _TAKE, {"task_id": task_id, "name": name, "wait_id": wait_id})
    return None if found is None else {"payload": found[1], "signalId": found[0]}


def _signal(found: tuple[Any, ...]) -> Signal:
    signal_id, task_id, name, payload, taken, created_at = found
    return Signal(
        signal_id=signal_id, task_id=task_id, name=name, payload=payload,
        state="consumed" if taken else "queued", created_at=created_at,
    )  # fmt: skip
