"""Messages to running tasks: stored for the attempt that runs, and never silently dropped.

Everything here happens under the lock of the run, as the end of an attempt does: a message is stored
while its attempt is live or refused, and whatever an attempt leaves unread becomes `undeliverable` in the
very transaction that ends it (F14). States only go forward, so reports may come twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog

from flakes.core import limits
from flakes.core.task import TaskStatus
from flakes.store import tasks
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.identifiers import new_id
from flakes.store.ledger import LOCK_RUNS_OF_ASSIGNMENTS, Ledger
from flakes.wire.codec import Issue
from flakes.wire.errors import ApiError, not_found
from flakes.wire.messages import Message, MessagePost
from flakes.wire.sandbox_stream import InputMessage, InputState

EXCERPT_LENGTH: Final = 200

log = structlog.get_logger()

# Who would read it: the accepted assignment of the task, its sandbox, and whether that one is here.
_READER = Query("""
    select t.status, a.assignment_id, a.sandbox_id, coalesce(l.connected, false),
           (select count(*) from messages m
            where m.assignment_id = a.assignment_id and m.state in ('queued', 'delivered'))
    from tasks t
    left join assignments a
      on a.assignment_id = t.assignment_id and a.live and a.state = 'accepted'
    left join links l on l.peer_id = a.sandbox_id
    where t.task_id = %(task_id)s""")

_INSERT = Query("""
    insert into messages (message_id, owner_id, run_id, task_id, assignment_id, sandbox_id, mode, message)
    values (%(message_id)s, %(owner_id)s, %(run_id)s, %(task_id)s, %(assignment_id)s, %(sandbox_id)s,
            %(mode)s, %(message)s)""")

_COLUMNS = """select message_id, task_id, assignment_id, mode, message, state, reason, created_at,
    delivered_at, consumed_at, ended_at from messages"""

_GET = Query(f"{_COLUMNS} where message_id = %(message_id)s")

# Uses messages_of_task.
_PAGE = Query(f"""{_COLUMNS}
    where task_id = %(task_id)s and (%(before)s::text is null or message_id < %(before)s)
    order by message_id desc limit %(limit)s""")

_QUEUED_FOR = Query("""
    update messages set sent_at = now()
    where sandbox_id = %(sandbox_id)s and state = 'queued'
    returning assignment_id, message_id, mode, message""")

# Only over the link that counts: what is sent over an older one is sent into the void.
_UNSENT = Query("""
    update messages m set sent_at = now()
    from links l
    where m.state = 'queued' and m.sent_at is null and m.sandbox_id = any(%(sandbox_ids)s)
      and l.peer_id = m.sandbox_id and l.replica_id = %(replica_id)s
    returning m.sandbox_id, m.assignment_id, m.message_id, m.mode, m.message""")

_REPORTED = Query("""
    select m.message_id, m.assignment_id, m.sandbox_id, m.run_id, m.task_id, m.mode,
           left(m.message, %(excerpt)s), m.state, m.delivered_at is not null, a.live
    from messages m left join assignments a on a.assignment_id = m.assignment_id
    where m.message_id = any(%(message_ids)s)""")

_MOVE = Query("""
    update messages m
    set state = u.state, reason = u.reason,
        delivered_at = case when u.state in ('delivered', 'consumed')
                            then coalesce(m.delivered_at, now()) else m.delivered_at end,
        consumed_at = case when u.state = 'consumed' then now() end,
        ended_at = case when u.state in ('consumed', 'undeliverable') then now() end
    from unnest(%(message_ids)s::text[], %(states)s::text[], %(reasons)s::text[])
        as u(message_id, state, reason)
    where m.message_id = u.message_id""")

_LEAVE = Query("""
    update messages m
    set state = 'undeliverable', ended_at = now(),
        reason = u.reason || case m.state when 'delivered'
                             then ' before the task acknowledged it' else ' before it was delivered' end
    from unnest(%(assignment_ids)s::text[], %(reasons)s::text[]) as u(assignment_id, reason)
    where m.assignment_id = u.assignment_id and m.state in ('queued', 'delivered')
    returning m.message_id, m.assignment_id, m.run_id, m.task_id, m.mode,
              left(m.message, %(excerpt)s), m.reason""")


async def post(
    conn: Connection, owner_id: str, task_id: str, body: MessagePost
) -> tuple[Message, str]:
    """Store a message for the attempt that runs; it and the sandbox to send it to.

    409 `task_not_running`, 409 `sandbox_offline`, 400 for a text that is empty or too long: then nothing
    is stored.
    """
    text = _checked(body.message)
    run_id, _ = await tasks.require(conn, owner_id, task_id)
    ledger = await Ledger.lock(conn, [run_id])
    found = await row(conn, _READER, {"task_id": task_id})
    if found is None or run_id not in ledger.runs:
        raise not_found("task")
    status, assignment_id, sandbox_id, connected, unread = found
    if TaskStatus(status) is not TaskStatus.RUNNING or assignment_id is None:
        raise ApiError(
            "task_not_running", f"the task is {status}: nobody would read the message",
            "send it when the task runs (`flakes watch`), or put it into a new task", status=status,
        )  # fmt: skip
    if not connected:
        raise ApiError(
            "sandbox_offline", "the sandbox that runs the task is not connected; nothing was stored",
            "send it again when the sandbox is back: `flakes sandboxes list`", sandboxId=sandbox_id,
        )  # fmt: skip
    if unread >= limits.MESSAGES_UNREAD_MAX:
        raise ApiError(
            "limit_exceeded", f"the task has {unread} messages that it has not read yet",
            "wait until it reads them", limit=limits.MESSAGES_UNREAD_MAX,
        )  # fmt: skip
    message_id = new_id("msg")
    await run(conn, _INSERT, {
        "message_id": message_id, "owner_id": owner_id, "run_id": run_id, "task_id": task_id,
        "assignment_id": assignment_id, "sandbox_id": sandbox_id, "mode": body.mode, "message": text,
    })  # fmt: skip
    data = _data(message_id, assignment_id, body.mode, text)
    ledger.event(run_id, "message.queued", task_id, data)
    await ledger.flush(conn)
    stored = await row(conn, _GET, {"message_id": message_id})
    assert stored is not None
    return _message(stored), sandbox_id


async def page(
    conn: Connection, owner_id: str, task_id: str, *, before: str | None, limit: int
) -> list[Message]:
    """Messages to a task, newest first."""
    await tasks.require(conn, owner_id, task_id)
    params = {"task_id": task_id, "before": before, "limit": limit}
    return [_message(found) for found in await rows(conn, _PAGE, params)]


async def queued_for(conn: Connection, sandbox_id: str) -> list[InputMessage]:
    """Everything that a sandbox which has just connected may not have got, oldest first."""
    found = await rows(conn, _QUEUED_FOR, {"sandbox_id": sandbox_id})
    return [_input(*fields) for fields in sorted(found, key=lambda fields: fields[1])]


async def unsent(
    conn: Connection, replica_id: str, sandbox_ids: Sequence[str]
) -> list[tuple[str, InputMessage]]:
    """(sandbox id, message) stored for these sandboxes, whose links are this replica's, here or by another
    replica, not yet delivered and not answered with this before."""
    params = {"sandbox_ids": list(sandbox_ids), "replica_id": replica_id}
    found = await rows(conn, _UNSENT, params)
    return [(fields[0], _input(*fields[1:])) for fields in sorted(found, key=lambda f: f[2])]


async def report(conn: Connection, reports: Sequence[tuple[str, InputState]]) -> set[str]:
    """Record what (sandbox id, state) reports say; the assignments whose report was refused as stale."""
    params = {"assignment_ids": list({state.assignment_id for _, state in reports})}
    ledger = Ledger.of(await rows(conn, LOCK_RUNS_OF_ASSIGNMENTS, params))
    ids = list({state.message_id for _, state in reports})
    found = {
        r[0]: list(r[1:])
        for r in await rows(conn, _REPORTED, {"message_ids": ids, "excerpt": EXCERPT_LENGTH})
    }
    moved: dict[str, tuple[str, str | None]] = {}
    stale: set[str] = set()
    for sandbox_id, told in reports:
        stored = found.get(told.message_id)
        if stored is None or stored[:2] != [told.assignment_id, sandbox_id]:
            log.warning("input.unknown", sandbox=sandbox_id, message=told.message_id, state=told.state)
            continue
        assignment_id, _, run_id, task_id, mode, excerpt, current, was_delivered, live = stored
        new = "undeliverable" if told.state == "refused" else told.state
        if current == new or (told.state == "delivered" and was_delivered):
            continue  # a replay
        if not live or current not in ("queued", "delivered") or run_id not in ledger.runs:
            stale.add(assignment_id)
            log.warning("input.stale", assignment=assignment_id, message=told.message_id, state=told.state)
            if run_id in ledger.runs:
                data = {"assignmentId": assignment_id, "what": f"message {told.state}", "sandboxId": sandbox_id}
                ledger.event(run_id, "attempt.refused", task_id, data)
            continue
        reason = (told.reason or "the agent refused it") if new == "undeliverable" else None
        stored[6], stored[7] = new, was_delivered or new != "undeliverable"
        moved[told.message_id] = (new, reason)
        data = _data(told.message_id, assignment_id, mode, excerpt)
        ledger.event(run_id, f"message.{new}", task_id, data | ({"reason": reason} if reason else {}))
    if moved:
        await run(conn, _MOVE, {
            "message_ids": list(moved), "states": [state for state, _ in moved.values()],
            "reasons": [reason for _, reason in moved.values()],
        })  # fmt: skip
    await ledger.flush(conn)
    return stale


async def leave(conn: Connection, ledger: Ledger, ended: Mapping[str, str]) -> None:
    """Attempts have ended: what they have not read becomes `undeliverable`. `ended` says how, by
    assignment id; the caller holds the lock of the runs and flushes."""
    params = {
        "assignment_ids": list(ended), "reasons": list(ended.values()), "excerpt": EXCERPT_LENGTH,
    }  # fmt: skip
    found = await rows(conn, _LEAVE, params)
    for message_id, assignment_id, run_id, task_id, mode, excerpt, reason in sorted(found):
        data = _data(message_id, assignment_id, mode, excerpt) | {"reason": reason}
        ledger.event(run_id, "message.undeliverable", task_id, data)


def _checked(message: str) -> str:
    text = message.strip()
    if not text:
        issue = Issue(path="message", message="must not be empty")
        raise ApiError("invalid_request", "the message is empty", "say something", issues=[issue])
    if len(text) > limits.MESSAGE_LENGTH_MAX:
        raise ApiError(
            "limit_exceeded", f"the message has {len(text):,} characters",
            f"send at most {limits.MESSAGE_LENGTH_MAX:,}, or name a file that the task can read",
            limit=limits.MESSAGE_LENGTH_MAX,
        )  # fmt: skip
    return text


def _data(message_id: str, assignment_id: str, mode: str, text: str) -> dict[str, Any]:
    return {
        "messageId": message_id, "assignmentId": assignment_id, "mode": mode,
        "excerpt": text[:EXCERPT_LENGTH],
    }  # fmt: skip


def _input(assignment_id: str, message_id: str, mode: Any, text: str) -> InputMessage:
    return InputMessage(assignment_id=assignment_id, message_id=message_id, mode=mode, text=text)


def _message(found: tuple[Any, ...]) -> Message:
    (message_id, task_id, assignment_id, mode, text, state, reason, created_at, delivered_at,
     consumed_at, ended_at) = found  # fmt: skip
    return Message(
        message_id=message_id, task_id=task_id, assignment_id=assignment_id, mode=mode, message=text,
        state=state, reason=reason, created_at=created_at, delivered_at=delivered_at,
        consumed_at=consumed_at, ended_at=ended_at,
    )  # fmt: skip
