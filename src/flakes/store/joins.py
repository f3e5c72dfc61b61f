"""What the end of tasks does to their parents, their groups and whoever waits for them.

Everything here happens in the transaction that ends a task, under the lock of its run, which registering a
wait takes too: of a member's end and a new wait, one sees the other (F17). Members count down their groups
and waits set-based, whatever their number (F16); what is decided by that wakes the tasks that yielded. Tasks
without parent, children or waits never come here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from flakes.core.group import Counts, GroupStatus, JoinRule, judge
from flakes.core.task import TaskStatus
from flakes.store import cancels, stalls
from flakes.store.database import Connection, Query, rows, run
from flakes.store.ledger import Ledger
from flakes.wire.codec import encode

PARENT_ENDED: Final = "the task that made it has ended"
"""Why children are cancelled with their parent; by it they are known again when that is retried."""

ROUND_VERDICTS: Final = {
    "COMPLETED": GroupStatus.SUCCEEDED, "FAILED": GroupStatus.FAILED, "CANCELLED": GroupStatus.CANCELLED,
}  # fmt: skip
"""What a wait for a round is told."""

_ABANDON = Query("""
    update task_groups set status = 'ABANDONED', settled_at = now()
    where owner_task_id = any(%(task_ids)s) and status in ('OPEN', 'CLOSED')
    returning group_id, run_id, owner_task_id, group_key""")

_FORGET_WAITS = Query("""
    update waits set state = 'cancelled', settled_at = now(), yields_for = null
    where task_id = any(%(task_ids)s) and state = 'pending' returning wait_id""")

# Of a parent that ended well, children without a group are work that it left to the run; but a harness has looked
# at what it began, and nobody else waits for the rest.
_ORPHANS = Query("""
    select c.task_id, c.run_id, c.status, c.optional, true
    from tasks c join tasks p on p.task_id = c.parent_task_id
    where c.parent_task_id = any(%(task_ids)s) and not c.detached
      and c.status in ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING')
      and (c.group_id is not null or p.status <> 'SUCCEEDED' or p.adapter = 'harness')
    order by c.task_id""")

_LEAVE_ROUNDS = Query("""
    update rounds r set state = case t.status when 'FAILED' then 'FAILED' else 'CANCELLED' end, ended_at = now()
    from tasks t
    where r.task_id = any(%(task_ids)s) and r.state = 'PROMPTED' and t.task_id = r.task_id
    returning r.round_id, r.run_id, r.task_id, r.round_key, r.state""")

_WAITS_ON_ROUNDS = Query("""
    select wait_id, round_id from waits where round_id = any(%(round_ids)s) and state = 'pending'""")

_COUNT_GROUPS = Query("""
    with arrived as (
        select group_id, count(*) filter (where status = 'SUCCEEDED') as succeeded,
               count(*) filter (where status = 'FAILED') as failed,
               count(*) filter (where status = 'CANCELLED') as cancelled
        from tasks where task_id = any(%(task_ids)s) and group_id is not null group by group_id
    )
    update task_groups g
    set succeeded = g.succeeded + a.succeeded, failed = g.failed + a.failed,
        cancelled = g.cancelled + a.cancelled
    from arrived a where g.group_id = a.group_id
    returning g.group_id, g.run_id, g.owner_task_id, g.group_key, g.status, g.join_rule, g.quorum,
              g.total, g.succeeded, g.failed, g.cancelled""")

_SETTLE_GROUPS = Query("""
    update task_groups g set status = u.status, settled_at = now()
    from unnest(%(group_ids)s::text[], %(statuses)s::text[]) as u(group_id, status)
    where g.group_id = u.group_id""")

_WAITS_ON_GROUPS = Query("""
    select wait_id, group_id from waits where group_id = any(%(group_ids)s) and state = 'pending'""")

_COUNT_WAITS = Query("""
    with arrived as (
        select m.wait_id, count(*) filter (where t.status = 'SUCCEEDED') as succeeded,
               count(*) filter (where t.status = 'FAILED') as failed,
               count(*) filter (where t.status = 'CANCELLED') as cancelled
        from wait_members m join tasks t on t.task_id = m.task_id
        where m.task_id = any(%(task_ids)s) group by m.wait_id
    )
    update waits w
    set succeeded = w.succeeded + a.succeeded, failed = w.failed + a.failed,
        cancelled = w.cancelled + a.cancelled
    from arrived a where w.wait_id = a.wait_id and w.state = 'pending'
    returning w.wait_id, w.join_rule, w.needed, w.total, w.succeeded, w.failed, w.cancelled""")

_SETTLE_WAITS = Query("""
    update waits w set state = u.state, outcome = u.outcome, settled_at = now()
    from unnest(%(wait_ids)s::text[], %(states)s::text[], %(outcomes)s::json[])
        as u(wait_id, state, outcome)
    where w.wait_id = u.wait_id and w.state = 'pending'
    returning w.wait_id, w.run_id, w.task_id, w.kind, w.state, w.operation_id, w.yields_for is not null""")

_WAKE = Query("""
    with moved as (
        update tasks t set status = 'QUEUED', queued_at = now(), next_attempt_at = null
        where t.task_id = any(%(task_ids)s) and t.status = 'WAITING'
        returning t.task_id, t.run_id, t.class_id, t.priority, t.optional
    ), queued as (
        insert into ready_tasks (task_id, class_id, run_id, priority, queued_at)
        select task_id, class_id, run_id, priority, now() from moved
    )
    select task_id, run_id, optional from moved order by task_id""")

_REOPEN_GROUPS = Query("""
    with g as (
        select group_id from task_groups where owner_task_id = any(%(task_ids)s)
        union
        select group_id from tasks where task_id = any(%(task_ids)s) and group_id is not null
    ), n as (
        select t.group_id, count(*) filter (where t.status = 'SUCCEEDED') as succeeded,
               count(*) filter (where t.status = 'FAILED') as failed,
               count(*) filter (where t.status = 'CANCELLED') as cancelled
        from tasks t where t.group_id in (select group_id from g) group by t.group_id
    )
    update task_groups k
    set succeeded = coalesce(n.succeeded, 0), failed = coalesce(n.failed, 0),
        cancelled = coalesce(n.cancelled, 0), settled_at = null,
        status = case when k.closed_at is null then 'OPEN' else 'CLOSED' end
    from g left join n on n.group_id = g.group_id
    where k.group_id = g.group_id and exists (
        select from tasks o where o.task_id = k.owner_task_id
          and o.status not in ('SUCCEEDED', 'FAILED', 'CANCELLED'))
    returning k.group_id, k.run_id, k.owner_task_id, k.group_key, k.status, k.join_rule, k.quorum,
              k.total, k.succeeded, k.failed, k.cancelled""")

# A task that is tried again by hand asks anew about others; its timers and signals stay as they were.
_FORGET_ANSWERS = Query("""
    with gone as (
        delete from waits where task_id = any(%(task_ids)s)
          and (kind in ('group', 'children') or state <> 'settled')
        returning wait_id
    )
    delete from wait_members where wait_id in (select wait_id from gone)""")


# A live task that ended because nobody prompted it takes prompts again.
_FORGET_IDLE = Query("""
    delete from finishing_tasks where task_id = any(%(task_ids)s) and idle""")


async def settle(conn: Connection, ledger: Ledger) -> None:
    """Look at everything that has ended in this transaction, until nothing more ends because of it."""
    while ledger.ended:
        ended, ledger.ended = ledger.ended, []
        await _owners(conn, ledger, ended)
        await _members(conn, ledger, ended)
    await _stalls(conn, ledger)


async def _stalls(conn: Connection, ledger: Ledger) -> None:
    """Waits that have lost their last hope are over. Where no task of a run is blocked, none has."""
    doubtful, ledger.doubtful = ledger.doubtful, set()
    stuck, ledger.stuck = ledger.stuck, set()
    if not any(locked.count(TaskStatus.BLOCKED) for locked in ledger.runs.values()):
        return
    if not doubtful and not stuck:
        return
    found = await stalls.find(conn, await stalls.pending(conn, doubtful, stuck))
    await settle_waits(conn, ledger, [
        (each.wait_id, "settled", {"verdict": GroupStatus.FAILED, "stalled": each.task_keys}) for each in found
    ])  # fmt: skip


async def _owners(conn: Connection, ledger: Ledger, ended: Collection[str]) -> None:
    """Their groups are abandoned, their waits forgotten, their children cancelled."""
    params = {"task_ids": list(ended)}
    for group_id, run_id, owner_id, key in await rows(conn, _ABANDON, params):
        data = {"groupId": group_id, "groupKey": key, "status": GroupStatus.ABANDONED}
        ledger.event(run_id, "group.settled", owner_id, data)
    ledger.settled += [wait_id for (wait_id,) in await rows(conn, _FORGET_WAITS, params)]
    await _rounds(conn, ledger, await rows(conn, _LEAVE_ROUNDS, params))
    orphans = [cancels.Live(*fields) for fields in await rows(conn, _ORPHANS, params)]
    if orphans:
        ledger.ready += await cancels.cancel(conn, ledger, orphans, PARENT_ENDED)


async def _rounds(conn: Connection, ledger: Ledger, left: Sequence[tuple[Any, ...]]) -> None:
    """Rounds that a task has left open are over with it."""
    states: dict[str, str] = {}
    for round_id, run_id, task_id, key, state in left:
        states[round_id] = state
        ledger.event(run_id, "round.ended", task_id, {"roundKey": key, "state": state})
    found = await rows(conn, _WAITS_ON_ROUNDS, {"round_ids": list(states)}) if states else []
    await settle_waits(conn, ledger, [
        (wait_id, "settled", {"verdict": ROUND_VERDICTS[states[round_id]]}) for wait_id, round_id in found
    ])  # fmt: skip


async def _members(conn: Connection, ledger: Ledger, ended: Collection[str]) -> None:
    params = {"task_ids": list(ended)}
    await groups_decided(conn, ledger, await rows(conn, _COUNT_GROUPS, params))
    decided = []
    for wait_id, rule, needed, *counts in await rows(conn, _COUNT_WAITS, params):
        verdict = judge(JoinRule(rule), needed, Counts(*counts))
        if verdict is not None:
            decided.append((wait_id, "settled", outcome_of(verdict, Counts(*counts))))
        else:
            ledger.doubtful.add(wait_id)
    await settle_waits(conn, ledger, decided)


async def groups_decided(
    conn: Connection, ledger: Ledger, found: Sequence[tuple[Any, ...]]
) -> None:
    """Settle those of these closed groups (rows of `_COUNT_GROUPS`) that are decided, and wake who waits."""
    settled: dict[str, tuple[GroupStatus, Counts]] = {}
    for group_id, run_id, owner_id, key, status, rule, quorum, *counts in found:
        if status != GroupStatus.CLOSED:
            continue
        verdict = judge(JoinRule(rule), quorum, Counts(*counts))
        if verdict is None:
            ledger.doubtful.add(group_id)
            continue
        settled[group_id] = (verdict, Counts(*counts))
        data = {"groupId": group_id, "groupKey": key, "status": verdict}
        ledger.event(run_id, "group.settled", owner_id, data)
    if settled:
        await run(conn, _SETTLE_GROUPS, {
            "group_ids": list(settled), "statuses": [str(status) for status, _ in settled.values()],
        })  # fmt: skip
        await group_waits(conn, ledger, settled)


async def group_waits(
    conn: Connection, ledger: Ledger, settled: Mapping[str, tuple[GroupStatus, Counts]]
) -> None:
    """These groups are settled, and that is written: so are the waits for them."""
    found = await rows(conn, _WAITS_ON_GROUPS, {"group_ids": list(settled)})
    decided = [(wait_id, "settled", outcome_of(*settled[group_id])) for wait_id, group_id in found]
    await settle_waits(conn, ledger, decided)


async def settle_waits(
    conn: Connection, ledger: Ledger, decided: Sequence[tuple[str, str, Mapping[str, Any]]]
) -> None:
    """(wait id, state, outcome): write them, and queue the tasks that had yielded because of them."""
    if not decided:
        return
    done = await rows(conn, _SETTLE_WAITS, {
        "wait_ids": [each[0] for each in decided], "states": [each[1] for each in decided],
        "outcomes": [encode(each[2]).decode() for each in decided],
    })  # fmt: skip
    stalled = {each[0]: {"stalled": each[2]["stalled"]} for each in decided if "stalled" in each[2]}
    for wait_id, run_id, task_id, kind, state, operation_id, _ in sorted(done):
        data = {"waitId": wait_id, "kind": kind, "state": state, "operationId": operation_id}
        data |= stalled.get(wait_id, {})
        ledger.event(run_id, "wait.settled", task_id, data)
    ledger.settled += [each[0] for each in done]
    asleep = list({each[2] for each in done if each[-1]})
    if not asleep:
        return
    for task_id, run_id, optional in await rows(conn, _WAKE, {"task_ids": asleep}):
        ledger.move(run_id, TaskStatus.WAITING, TaskStatus.QUEUED, optional=optional)
        ledger.event(run_id, "task.queued", task_id, {"reason": "wait_settled"})
        ledger.ready += 1


async def reopen(conn: Connection, ledger: Ledger, task_ids: Collection[str]) -> None:
    """These tasks, which had ended, are tried again by hand: groups that they own or are in go on, and what
    they had been told about others is forgotten."""
    params = {"task_ids": list(task_ids)}
    await run(conn, _FORGET_ANSWERS, params)
    await run(conn, _FORGET_IDLE, params)
    await groups_decided(conn, ledger, await rows(conn, _REOPEN_GROUPS, params))


def outcome_of(verdict: GroupStatus, counts: Counts) -> dict[str, Any]:
    """What a wait keeps of how it was decided."""
    return {
        "verdict": verdict,
        "counts": {
            "total": counts.total, "live": counts.live, "succeeded": counts.succeeded,
            "failed": counts.failed, "cancelled": counts.cancelled,
        },
    }  # fmt: skip
