"""What tasks wait for: registered under the lock of their run, settled under the same lock.

A wait is looked at when it is registered, and from then on whoever ends a member, sends a signal or lets a
timer fire settles it (`joins`, `signals`, `fire`). An asker who is told `pending` and to yield is noted in
`yields_for`: the end of that attempt is then no failure, and its task is WAITING until the wait is settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flakes.core import limits
from flakes.core.group import SETTLED, Counts, GroupStatus, JoinRule, can_settle, judge
from flakes.core.task import TaskStatus
from flakes.store import groups, idling, joins, runs, signals, spawning, stalls, tasks
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.definitions import check_key
from flakes.store.fences import Holder
from flakes.store.identifiers import new_id
from flakes.store.ledger import Ledger
from flakes.wire.errors import ApiError, not_found
from flakes.wire.groups import Members
from flakes.wire.waits import OnChildren, OnGroup, OnRound, OnSignal, OnTimer, Wait, WaitFor

_COLUMNS = """wait_id, operation_id, task_id, kind, state, group_id, signal_name, round_id, outcome, due_at,
    created_at, settled_at"""

_KNOWN = Query(f"""
    select {_COLUMNS}, digest from waits
    where task_id = %(task_id)s and operation_id = %(operation_id)s""")

_GET = Query(f"select {_COLUMNS} from waits where wait_id = %(wait_id)s")

_PAGE = Query(f"""
    select {_COLUMNS} from waits
    where task_id = %(task_id)s and (%(before)s::text is null or wait_id < %(before)s)
    order by wait_id desc limit %(limit)s""")

_INSERT = Query("""
    insert into waits (wait_id, run_id, task_id, operation_id, digest, kind, group_id, signal_name,
                       round_id, join_rule, needed, total, succeeded, failed, cancelled, due_at)
    values (%(wait_id)s, %(run_id)s, %(task_id)s, %(operation_id)s, %(digest)s, %(kind)s, %(group_id)s,
            %(signal_name)s, %(round_id)s, %(join_rule)s, %(needed)s, %(total)s, %(succeeded)s, %(failed)s,
            %(cancelled)s, now() + %(due_s)s::float8 * interval '1 s')""")

_INSERT_MEMBERS = Query("""
    insert into wait_members (task_id, wait_id)
    select u, %(wait_id)s from unnest(%(task_ids)s::text[]) as u on conflict do nothing""")

_COUNT = Query("""
    update tasks set wait_count = wait_count + 1 where task_id = %(task_id)s returning wait_count""")

_YIELD = Query("""
    update waits set yields_for = %(assignment_id)s where wait_id = %(wait_id)s
      and yields_for is distinct from %(assignment_id)s""")

_CHILDREN = Query("select task_id, status from tasks where parent_task_id = %(task_id)s order by task_id")

_ROUND = Query("""
    select round_id, state from rounds where task_id = %(task_id)s and round_key = %(round_key)s""")

_ENDED_ROUNDS = Query("select count(*) from rounds where task_id = %(task_id)s and state <> 'PROMPTED'")

# Uses waits_due.
_DUE = Query("""
    select wait_id, run_id from waits
    where state = 'pending' and due_at <= now() order by due_at limit %(limit)s""")

_STILL_DUE = Query("""
    select wait_id, kind, task_id from waits
    where wait_id = any(%(wait_ids)s) and state = 'pending' and due_at <= now()""")

_NEXT_DUE = Query("""
    select extract(epoch from min(due_at) - now())::float8 from waits
    where state = 'pending' and due_at is not null""")


async def ask(
    conn: Connection, ledger: Ledger, holder: Holder, body: WaitFor, *, yields: bool
) -> Wait:
    """The wait of that operation id, registered if it is new. `yields`: when it is pending, this attempt is
    told to end. 404 for what is not the task's own; 409 `group_open`, `wait_unsatisfiable`, `wait_stalled`,
    `wait_deadlock`."""
    digest = runs.digest_of(_meaning(body))
    key = {"task_id": holder.task_id, "operation_id": body.operation_id}
    known = await row(conn, _KNOWN, key)
    if known is not None:
        if bytes(known[-1]) != digest:
            raise ApiError("operation_conflict", "this operation id was used for another wait", "use a new operation id for another wait")
        wait = _wait(known[:-1])
    else:
        wait = await _register(conn, ledger, holder, body, digest)
    told = yields and wait.state == "pending"
    await run(conn, _YIELD, {
        "wait_id": wait.wait_id, "assignment_id": holder.assignment_id if told else None,
    })  # fmt: skip
    return wait


def _meaning(body: WaitFor) -> WaitFor:
    """What a wait is about, without how it is asked for."""
    return WaitFor(operation_id=body.operation_id, on=body.on, timeout_s=body.timeout_s)


async def _register(
    conn: Connection, ledger: Ledger, holder: Holder, body: WaitFor, digest: bytes
) -> Wait:
    wait_id = new_id("wait")
    fields: dict[str, Any] = {
        "wait_id": wait_id, "run_id": holder.run_id, "task_id": holder.task_id,
        "operation_id": body.operation_id, "digest": digest, "group_id": None, "signal_name": None,
        "round_id": None, "join_rule": None, "needed": None, "total": 0, "succeeded": 0, "failed": 0, "cancelled": 0,
        "due_s": body.timeout_s,
    }  # fmt: skip
    members: list[str] = []
    outcome: dict[str, Any] | None = None
    match body.on:
        case OnGroup():
            fields["kind"] = "group"
            fields["group_id"], outcome = await _on_group(conn, holder, body.on)
        case OnChildren():
            fields["kind"] = "children"
            members, own, outcome = await _on_children(conn, holder, body.on)
            fields |= own
        case OnTimer():
            if body.timeout_s is not None:
                raise ApiError("invalid_request", "a timer has no time-out", "leave timeoutS out")
            fields |= {"kind": "timer", "due_s": body.on.seconds}
            outcome = None if body.on.seconds else {}
        case OnSignal():
            check_key("signal", body.on.name)
            fields |= {"kind": "signal", "signal_name": body.on.name}
            outcome = await signals.take(conn, holder.task_id, body.on.name, wait_id)
        case OnRound():
            fields["kind"] = "round"
            fields["round_id"], outcome = await _on_round(conn, holder, body.on)
    counted = await row(conn, _COUNT, {"task_id": holder.task_id})
    if counted is not None and counted[0] > limits.WAITS_PER_TASK_MAX:
        raise ApiError("limit_exceeded", f"the task has waited {counted[0] - 1} times", "look for what makes it wait in a circle", limit=limits.WAITS_PER_TASK_MAX)
    await run(conn, _INSERT, fields)
    if outcome is not None:
        await joins.settle_waits(conn, ledger, [(wait_id, "settled", outcome)])
    elif members:
        await run(conn, _INSERT_MEMBERS, {"wait_id": wait_id, "task_ids": members})
    if outcome is None and ledger.runs[holder.run_id].count(TaskStatus.BLOCKED):
        await _refuse_stalled(conn, wait_id, holder.task_id)
    return await get(conn, wait_id)


async def for_prompt(
    conn: Connection, ledger: Ledger, holder: Holder, *, yields: bool
) -> Wait:
    """The wait of a live task that has no round to do, until it gets one or is to end. One for each number of
    rounds that are over, and pending again after it was settled by a prompt that is over by now."""
    counted = await row(conn, _ENDED_ROUNDS, {"task_id": holder.task_id})
    assert counted is not None
    operation_id = f"prompt-{counted[0] + 1}"
    key = {"task_id": holder.task_id, "operation_id": operation_id}
    known = await row(conn, _KNOWN, key)
    if known is None:
        wait_id = new_id("wait")
        await run(conn, _COUNT, {"task_id": holder.task_id})
        await run(conn, _INSERT, {
            "wait_id": wait_id, "run_id": holder.run_id, "task_id": holder.task_id,
            "operation_id": operation_id, "digest": b"", "kind": "prompt", "group_id": None,
            "signal_name": None, "round_id": None, "join_rule": None, "needed": None, "total": 0,
            "succeeded": 0, "failed": 0, "cancelled": 0,
            "due_s": await idling.after_s(conn, holder.task_id),
        })  # fmt: skip
        wait = await get(conn, wait_id)
    else:
        wait = _wait(known[:-1])
    told = yields and wait.state == "pending"
    await run(conn, _YIELD, {
        "wait_id": wait.wait_id, "assignment_id": holder.assignment_id if told else None,
    })  # fmt: skip
    return wait


async def _on_group(
    conn: Connection, holder: Holder, on: OnGroup
) -> tuple[str, dict[str, Any] | None]:
    """The group, and the outcome when it is settled."""
    group = await groups.get(conn, holder.task_id, on.group)
    status, counts = GroupStatus(group.status), groups.counts_of(group)
    if status in SETTLED:
        return group.group_id, joins.outcome_of(status, counts)
    if status is GroupStatus.OPEN:
        raise ApiError("group_open", f"the group {group.group_key!r} is open: it could still grow", "close it before waiting for it", groupId=group.group_id)
    return group.group_id, None


async def _on_round(
    conn: Connection, holder: Holder, on: OnRound
) -> tuple[str, dict[str, Any] | None]:
    """The round of a child, and the outcome when it is over."""
    task_id = (await spawning.resolve(conn, holder.task_id, [on.task]))[0][0]
    found = await row(conn, _ROUND, {"task_id": task_id, "round_key": on.round_key})
    if found is None:
        raise not_found("round")
    verdict = joins.ROUND_VERDICTS.get(found[1])
    return found[0], None if verdict is None else {"verdict": verdict}


async def _on_children(
    conn: Connection, holder: Holder, on: OnChildren
) -> tuple[list[str], dict[str, Any], dict[str, Any] | None]:
    """The members, what is stored of the rule, and the outcome when it is decided."""
    if (on.join == "quorum") != (on.quorum is not None):
        raise ApiError("invalid_request", "quorum goes with the join rule quorum, and that needs it", 'give {"join": "quorum", "quorum": 2}, or leave quorum out')
    if on.tasks:
        members = [(r[0], r[3]) for r in await spawning.resolve(conn, holder.task_id, on.tasks)]
    else:
        members = await rows(conn, _CHILDREN, {"task_id": holder.task_id})
    rule = JoinRule(on.join) if on.threshold is None else JoinRule.THRESHOLD
    needed = on.quorum if on.threshold is None else on.threshold
    if not can_settle(rule, needed, len(members)):
        raise ApiError("wait_unsatisfiable", f"{needed or 1} of {len(members)} children can never be reached", "make the children first, or ask for fewer", children=len(members))
    counts = _counted(members)
    verdict = judge(rule, needed, counts)
    own = {
        "join_rule": str(rule), "needed": needed, "total": counts.total, "succeeded": counts.succeeded,
        "failed": counts.failed, "cancelled": counts.cancelled,
    }  # fmt: skip
    ids = [task_id for task_id, _ in members]
    return ids, own, joins.outcome_of(verdict, counts) if verdict else None


def _counted(members: Sequence[tuple[Any, ...]]) -> Counts:
    statuses = [status for _, status in members]
    return Counts(
        len(statuses), statuses.count(TaskStatus.SUCCEEDED), statuses.count(TaskStatus.FAILED),
        statuses.count(TaskStatus.CANCELLED),
    )  # fmt: skip


async def _refuse_stalled(conn: Connection, wait_id: str, task_id: str) -> None:
    """Refuse when all that still lives is blocked for good: behind what ended badly, or behind this task."""
    for each in await stalls.find(conn, [wait_id], [task_id]):
        if each.circle:
            raise ApiError("wait_deadlock", f"what is waited for waits for this task: {each.task_keys[0]!r} depends on it", "let it depend on something else, or do not wait for it", taskKeys=each.task_keys)
        raise ApiError("wait_stalled", f"{len(each.task_keys)} tasks are blocked for good, {each.task_keys[0]!r} first", "cancel them, or retry what they depend on", taskKeys=each.task_keys)


async def get(conn: Connection, wait_id: str) -> Wait:
    """One wait, or 404."""
    found = await row(conn, _GET, {"wait_id": wait_id})
    if found is None:
        raise not_found("wait")
    return _wait(found)


async def page(
    conn: Connection, owner_id: str, task_id: str, *, before: str | None, limit: int
) -> list[Wait]:
    """Waits of a task of this owner, newest first."""
    await tasks.require(conn, owner_id, task_id)
    params = {"task_id": task_id, "before": before, "limit": limit}
    return [_wait(found) for found in await rows(conn, _PAGE, params)]


async def next_due_s(conn: Connection) -> float | None:
    """Seconds until the next timer fires (negative when it is due); None when there is none."""
    found = await row(conn, _NEXT_DUE)
    return None if found is None else found[0]


async def fire(conn: Connection, limit: int) -> tuple[int, Ledger | None]:
    """Settle timers that are due, time out what has waited too long, and tell live tasks that nobody prompts to
    end: how many, and what it woke."""
    due = await rows(conn, _DUE, {"limit": limit})
    if not due:
        return 0, None
    ledger = await Ledger.lock(conn, [run_id for _, run_id in due])
    still = await rows(conn, _STILL_DUE, {"wait_ids": [wait_id for wait_id, _ in due]})
    decided = [
        (wait_id, "settled" if kind in ("timer", "prompt") else "timed_out", {})
        for wait_id, kind, _ in still
    ]
    await idling.finish(conn, ledger, [task_id for _, kind, task_id in still if kind == "prompt"])
    await joins.settle_waits(conn, ledger, decided)
    await ledger.flush(conn)
    return len(due), ledger


def _wait(found: tuple[Any, ...]) -> Wait:
    (wait_id, operation_id, task_id, kind, state, group_id, signal_name, round_id, outcome, due_at,
     created_at, settled_at) = found  # fmt: skip
    told = outcome or {}
    return Wait(
        wait_id=wait_id, operation_id=operation_id, task_id=task_id, kind=kind, state=state,
        verdict=told.get("verdict"), counts=Members(**told["counts"]) if "counts" in told else None, group_id=group_id,
        stalled=told.get("stalled", []), signal_name=signal_name, round_id=round_id, payload=told.get("payload"), due_at=due_at, created_at=created_at,
        settled_at=settled_at,
    )  # fmt: skip
