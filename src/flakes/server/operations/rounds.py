"""Operations of live rounds: of a parent on its children, and of a live task on its own."""

from __future__ import annotations

from typing import Final

from flakes.core import limits
from flakes.server.operations.act import Act, Handler
from flakes.server.operations.waits import hold
from flakes.store import rounds, spawning, waits
from flakes.store.database import Connection
from flakes.store.fences import Holder
from flakes.wire.errors import ApiError
from flakes.wire.rounds import Round, RoundGiven, Rounds


async def send(act: Act) -> Round:
    async with act.locked() as (conn, holder, ledger):
        target = await rounds.child(conn, holder, act.body.task)
        sent = await rounds.send(conn, ledger, holder.run_id, target, act.body)
    act.plane.joined(ledger)
    return sent


async def finish(act: Act) -> Rounds:
    async with act.locked() as (conn, holder, ledger):
        target = await rounds.child(conn, holder, act.body.task)
        await rounds.finish(conn, ledger, holder.run_id, target)
        found = await rounds.of_task(conn, target[0], after=0, limit=limits.PAGE_LENGTH_DEFAULT)
    act.plane.joined(ledger)
    return found


async def next_(act: Act) -> RoundGiven:
    """Looked for, then held, then looked for again: only that answer may tell the attempt to yield."""
    body = act.body
    given, wait_id = await _look(act, yields=body.yields and not body.hold_s)
    if wait_id is None or not body.hold_s:
        return given
    await hold(act, wait_id, body.hold_s)
    return (await _look(act, yields=body.yields))[0]


async def _look(act: Act, *, yields: bool) -> tuple[RoundGiven, str | None]:
    """What there is to do, or the wait for it."""
    async with act.locked() as (conn, holder, ledger):
        given = await rounds.take(conn, ledger, holder)
        if given.round is not None or given.finishing:
            return given, None
        return given, (await waits.for_prompt(conn, ledger, holder, yields=yields)).wait_id


async def complete(act: Act) -> Round:
    async with act.locked() as (conn, holder, ledger):
        done = await rounds.complete(conn, ledger, holder, act.body)
    act.plane.joined(ledger)
    return done


async def read(act: Act) -> Round:
    async with act.fenced() as (conn, holder):
        task_id = await _named(conn, holder, act.body.task)
        return await rounds.get(conn, task_id, act.body.round_key)


async def list_(act: Act) -> Rounds:
    body = act.body
    async with act.fenced() as (conn, holder):
        task_id = await _named(conn, holder, body.task)
        return await rounds.of_task(conn, task_id, after=after(body.cursor), limit=body.limit)


def after(cursor: str | None) -> int:
    """The ordinal after which a page begins."""
    if cursor is None:
        return 0
    if not cursor.isdigit() or len(cursor) > 9:
        raise ApiError("invalid_request", "the cursor is not one of this list", "take nextCursor of the page before")
    return int(cursor)


async def _named(conn: Connection, holder: Holder, reference: str | None) -> str:
    if reference is None:
        return holder.task_id
    return (await spawning.resolve(conn, holder.task_id, [reference]))[0][0]


HANDLERS: Final[dict[str, Handler]] = {
    "round.send": send, "round.finish": finish, "round.next": next_, "round.complete": complete,
    "round.read": read, "round.list": list_,
}  # fmt: skip
