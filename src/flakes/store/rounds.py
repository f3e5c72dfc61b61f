"""Live rounds of a task: sent by its parent, taken and completed by its running attempt.

All of it holds the lock of the run, as the end of the task does: a round is completed once, by the attempt
that runs, and what a task leaves open is over with it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from flakes.core import limits
from flakes.core.task import TERMINAL, TaskStatus
from flakes.store import joins, runs, spawning, tasks
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.definitions import check_key, check_size
from flakes.store.fences import Holder
from flakes.store.identifiers import new_id
from flakes.store.ledger import Ledger
from flakes.wire.codec import encode
from flakes.wire.errors import ApiError, not_found
from flakes.wire.rounds import (
    LiveState,
    Round,
    RoundComplete,
    RoundGiven,
    RoundOutput,
    RoundOutputShown,
    RoundPost,
    Rounds,
    RoundSend,
)

Target = tuple[str, str, str]
"""Id, key and status of a task."""

_COLUMNS = """round_id, round_key, task_id, ordinal, state, prompt, payload, text, outputs, error, created_at,
    delivered_at, ended_at"""

_LIVE = Query("""
    select coalesce((p.definition ->> 'liveRounds')::boolean, false),
           exists (select from finishing_tasks f where f.task_id = p.task_id),
           (select count(*) from rounds r where r.task_id = p.task_id and r.state = 'PROMPTED'),
           (select coalesce(max(r.ordinal), 0) from rounds r where r.task_id = p.task_id)
    from task_payloads p where p.task_id = %(task_id)s""")

_SENT = Query(f"""
    select {_COLUMNS}, digest from rounds
    where task_id = %(task_id)s and operation_id = %(operation_id)s""")

_INSERT = Query("""
    insert into rounds (round_id, run_id, task_id, round_key, operation_id, digest, ordinal, prompt, payload)
    values (%(round_id)s, %(run_id)s, %(task_id)s, %(round_key)s, %(operation_id)s, %(digest)s,
            %(ordinal)s, %(prompt)s, %(payload)s::json)
    on conflict (task_id, round_key) do nothing""")

_GET = Query(f"""
    select {_COLUMNS} from rounds where task_id = %(task_id)s and round_key = %(round_key)s""")

# Uses rounds_open.
_NEXT = Query(f"""
    select {_COLUMNS}, delivered_to from rounds
    where task_id = %(task_id)s and state = 'PROMPTED' order by ordinal limit 1""")

_DELIVER = Query("""
    update rounds set delivered_to = %(assignment_id)s, delivered_at = coalesce(delivered_at, now())
    where round_id = %(round_id)s""")

_OPEN = Query("""
    select round_id, state, result from rounds
    where task_id = %(task_id)s and round_key = %(round_key)s""")

_COMPLETE = Query("""
    update rounds set state = %(state)s, result = %(result)s, text = %(text)s, outputs = %(outputs)s::json,
        error = %(error)s::json, ended_at = now()
    where round_id = %(round_id)s""")

_FINISH = Query("""
    insert into finishing_tasks (task_id, run_id) values (%(task_id)s, %(run_id)s) on conflict do nothing""")

_WAITING_FOR = Query("select wait_id from waits where round_id = %(round_id)s and state = 'pending'")

_ASLEEP = Query("""
    select wait_id from waits where task_id = %(task_id)s and kind = 'prompt' and state = 'pending'""")

_PAGE = Query(f"""
    select {_COLUMNS} from rounds where task_id = %(task_id)s and ordinal > %(after)s
    order by ordinal limit %(limit)s""")

_STATE = Query("""
    select t.status, coalesce((p.definition ->> 'liveRounds')::boolean, false),
           exists (select from finishing_tasks f where f.task_id = t.task_id),
           exists (select from rounds r where r.task_id = t.task_id and r.state = 'PROMPTED'),
           exists (select from rounds r where r.task_id = t.task_id and r.state <> 'PROMPTED')
           or exists (select from waits w where w.task_id = t.task_id and w.kind = 'prompt')
    from tasks t join task_payloads p on p.task_id = t.task_id where t.task_id = %(task_id)s""")


async def post(
    conn: Connection, owner_id: str, task_id: str, body: RoundPost
) -> tuple[Round, Ledger]:
    """Prompt a live task of this owner; the ledger says what that woke."""
    run_id, _ = await tasks.require(conn, owner_id, task_id)
    ledger = await Ledger.lock(conn, [run_id])
    state = await tasks.state(conn, owner_id, task_id)
    asked = RoundSend(
        operation_id=body.operation_id or new_id("op"), task=task_id, prompt=body.prompt,
        round_key=body.round_key, payload=body.payload,
    )  # fmt: skip
    sent = await send(conn, ledger, run_id, (task_id, task_id, state.status), asked)
    await ledger.flush(conn)
    return sent, ledger


async def end(conn: Connection, owner_id: str, task_id: str) -> tuple[Rounds, Ledger]:
    """No more prompts to a live task of this owner."""
    run_id, _ = await tasks.require(conn, owner_id, task_id)
    ledger = await Ledger.lock(conn, [run_id])
    state = await tasks.state(conn, owner_id, task_id)
    await finish(conn, ledger, run_id, (task_id, task_id, state.status))
    await ledger.flush(conn)
    return await of_task(conn, task_id, after=0, limit=limits.PAGE_LENGTH_DEFAULT), ledger


async def child(conn: Connection, holder: Holder, reference: str) -> Target:
    """A child of the asking task, by id or key, or 404."""
    task_id, key, _, status, _ = (await spawning.resolve(conn, holder.task_id, [reference]))[0]
    return task_id, key, status


async def send(
    conn: Connection, ledger: Ledger, run_id: str, target: Target, body: RoundSend
) -> Round:
    """Prompt a live task. 409 `task_ended`, `round_conflict`, `operation_conflict`; 400 `limit_exceeded`."""
    task_id, key, status = target
    check_size("payload", body.payload, limits.SIGNAL_SIZE_BYTES_MAX)
    digest = runs.digest_of(body)
    named = {"task_id": task_id, "operation_id": body.operation_id}
    known = await row(conn, _SENT, named)
    if known is not None:
        if bytes(known[-1]) != digest:
            raise ApiError("operation_conflict", "this operation id was used for another prompt", "use a new operation id for a new prompt")
        return _round(known[:-1])
    ordinal = await _require_live(conn, task_id, key, status)
    round_key = body.round_key or f"round-{ordinal}"
    check_key("round", round_key)
    made = await run(conn, _INSERT, named | {
        "round_id": new_id("round"), "run_id": run_id, "round_key": round_key, "digest": digest,
        "ordinal": ordinal, "prompt": body.prompt, "payload": encode(body.payload).decode(),
    })  # fmt: skip
    if not made:
        raise ApiError("round_conflict", f"the task has a round {round_key!r} already", "choose another round key", roundKey=round_key)
    ledger.event(run_id, "round.prompted", task_id, {"roundKey": round_key, "ordinal": ordinal})
    await _wake(conn, ledger, task_id)
    return await get(conn, task_id, round_key)


async def _require_live(conn: Connection, task_id: str, key: str, status: str) -> int:
    """The number of the next round of a task that takes one."""
    found = await row(conn, _LIVE, {"task_id": task_id})
    assert found is not None
    is_live, finishing, unanswered, last = found
    if not is_live:
        raise ApiError("round_conflict", f"the task {key!r} takes no rounds", "make it with liveRounds")
    if TaskStatus(status) in TERMINAL:
        raise ApiError("task_ended", f"the task {key!r} is {status}", "make another child", status=status)
    if finishing:
        raise ApiError("round_conflict", f"the task {key!r} is to end after its open rounds", "make another child")
    if unanswered >= limits.ROUNDS_OPEN_MAX or last >= limits.ROUNDS_MAX:
        raise ApiError("limit_exceeded", f"the task {key!r} has {unanswered} open rounds of {last}", "wait for their ends, or make another child", limit=limits.ROUNDS_OPEN_MAX if unanswered >= limits.ROUNDS_OPEN_MAX else limits.ROUNDS_MAX)
    return last + 1


async def finish(conn: Connection, ledger: Ledger, run_id: str, target: Target) -> None:
    """No more prompts: the task ends when its open rounds have. Again changes nothing."""
    task_id, key, status = target
    found = await row(conn, _LIVE, {"task_id": task_id})
    if found is None or not found[0]:
        raise ApiError("round_conflict", f"the task {key!r} takes no rounds", "make it with liveRounds")
    if TaskStatus(status) not in TERMINAL and await run(
        conn, _FINISH, {"task_id": task_id, "run_id": run_id}
    ):
        ledger.event(run_id, "round.finishing", task_id)
        await _wake(conn, ledger, task_id)


async def _wake(conn: Connection, ledger: Ledger, task_id: str) -> None:
    """The child may be waiting for just this."""
    asleep = await rows(conn, _ASLEEP, {"task_id": task_id})
    await joins.settle_waits(conn, ledger, [(wait_id, "settled", {}) for (wait_id,) in asleep])


async def take(conn: Connection, ledger: Ledger, holder: Holder) -> RoundGiven:
    """What the attempt that asks is to do. A round that it had, or that an earlier attempt had, is the same."""
    found = await row(conn, _NEXT, {"task_id": holder.task_id})
    if found is None:
        live = await row(conn, _LIVE, {"task_id": holder.task_id})
        if live is None or not live[0]:
            raise ApiError("round_conflict", "this task takes no rounds", "its parent makes it with liveRounds")
        return RoundGiven(finishing=live[1])
    *fields, delivered_to = found
    given = _round(tuple(fields))
    if delivered_to != holder.assignment_id:
        await run(conn, _DELIVER, {"round_id": given.round_id, "assignment_id": holder.assignment_id})
        data = {"roundKey": given.round_key, "assignmentId": holder.assignment_id}
        ledger.event(holder.run_id, "round.delivered", holder.task_id, data)
        given = await get(conn, holder.task_id, given.round_key)
    return RoundGiven(round=given)


async def complete(
    conn: Connection, ledger: Ledger, holder: Holder, body: RoundComplete
) -> Round:
    """End a round of the asking attempt, once. 404, 409 `round_conflict` when it has ended otherwise."""
    check_size("outputs", body.outputs, limits.ROUND_OUTPUTS_BYTES_MAX)
    for key, output in body.outputs.items():
        check_key("output", key)
        if output.kind != "text":
            _check_json(key, output.text)
    found = await row(conn, _OPEN, {"task_id": holder.task_id, "round_key": body.round_key})
    if found is None:
        raise not_found("round")
    round_id, state, result = found
    digest = runs.digest_of(body)
    if state != "PROMPTED":
        if result is not None and bytes(result) == digest:
            return await get(conn, holder.task_id, body.round_key)
        raise ApiError("round_conflict", f"the round {body.round_key!r} is {state}", "ask for the next one", roundKey=body.round_key)
    await run(conn, _COMPLETE, {
        "round_id": round_id, "state": body.state, "result": digest, "text": body.text,
        "outputs": encode(body.outputs).decode(),
        "error": None if body.error is None else encode(body.error).decode(),
    })  # fmt: skip
    data = {"roundKey": body.round_key, "state": body.state, "assignmentId": holder.assignment_id}
    ledger.event(holder.run_id, "round.ended", holder.task_id, data)
    waiting = await rows(conn, _WAITING_FOR, {"round_id": round_id})
    outcome = {"verdict": joins.ROUND_VERDICTS[body.state]}
    await joins.settle_waits(conn, ledger, [(wait_id, "settled", outcome) for (wait_id,) in waiting])
    return await get(conn, holder.task_id, body.round_key)


async def get(conn: Connection, task_id: str, round_key: str) -> Round:
    """One round with its outputs, or 404."""
    found = await row(conn, _GET, {"task_id": task_id, "round_key": round_key})
    if found is None:
        raise not_found("round")
    return _round(found)


async def of_task(conn: Connection, task_id: str, *, after: int, limit: int) -> Rounds:
    """Rounds of a task, oldest first, without their outputs."""
    found = await rows(conn, _PAGE, {"task_id": task_id, "after": after, "limit": limit})
    shown = [msgspec.structs.replace(_round(r), outputs={}) for r in found]
    cursor = str(shown[-1].ordinal) if len(shown) == limit else None
    return Rounds(rounds=shown, live_state=await live_state(conn, task_id), next_cursor=cursor)


async def owned(conn: Connection, owner_id: str, task_id: str, *, after: int, limit: int) -> Rounds:
    """The same for a task of this owner, or 404."""
    await tasks.require(conn, owner_id, task_id)
    return await of_task(conn, task_id, after=after, limit=limit)


async def output(
    conn: Connection, owner_id: str, task_id: str, round_key: str, key: str
) -> RoundOutput:
    """One output of a round, or 404."""
    await tasks.require(conn, owner_id, task_id)
    found = (await get(conn, task_id, round_key)).outputs.get(key)
    if found is None:
        raise not_found("output")
    return found


async def live_state(conn: Connection, task_id: str) -> LiveState | None:
    """Where a task with live rounds is; None for others and for ended ones."""
    found = await row(conn, _STATE, {"task_id": task_id})
    if found is None or not found[1] or TaskStatus(found[0]) in TERMINAL:
        return None
    _, _, finishing, prompted, began = found
    if prompted:
        return "RUNNING_ROUND"
    if finishing:
        return "FINISHING"
    return "AWAITING_INPUT" if began else "STARTING"


def _check_json(key: str, text: str) -> None:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ApiError("invalid_request", f"the output {key!r} is not JSON: {error}", "write JSON, or declare it as text", path=f"outputs.{key}.text") from error


def _round(found: tuple[Any, ...]) -> Round:
    (round_id, round_key, task_id, ordinal, state, prompt, payload, text, outputs, error, created_at,
     delivered_at, ended_at) = found  # fmt: skip
    known = msgspec.convert(outputs or {}, dict[str, RoundOutput])
    return Round(
        round_id=round_id, round_key=round_key, task_id=task_id, ordinal=ordinal, state=state,
        prompt=prompt, payload=payload, text=text or "", outputs=known,
        output_sizes={
            key: RoundOutputShown(kind=each.kind, size_bytes=len(each.text.encode()))
            for key, each in known.items()
        },
        error=error, created_at=created_at, delivered_at=delivered_at, ended_at=ended_at,
    )  # fmt: skip
