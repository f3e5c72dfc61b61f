"""Metrics of a run, computed where its rows are: three statements, whatever the size of the run.

Queueing is read from the event log, which has every time that a task became ready, in an order that
commits cannot disturb; a task's own row has the last one only. What passed until an offer was taken by
some sandbox is queueing too. Waiting is what an attempt spent on answers to its permission requests: the
longest of several at once counts alone.
"""

from __future__ import annotations

from typing import Any

from flakes.core.task import TERMINAL, TaskStatus
from flakes.store import runs, transcripts
from flakes.store.database import Connection, Query, row, rows
from flakes.wire.metrics import Distribution, Parallelism, RunMetrics, Success

_SPREAD = """count(ms), avg(ms)::float8, max(ms)::float8,
    percentile_cont(array[0.5, 0.9, 0.99]::float8[]) within group (order by ms)"""

# Every start of a task with the moment at which it had become ready for it.
_STARTS = """
    moments as (
        select e.type, e.at, e.data, lag(e.type) over task as type_before,
               lag(e.at) over task as at_before, lag(e.data) over task as data_before
        from events e
        where e.run_id = %(run_id)s
          and (e.type in ('task.admitted', 'task.running')
               or e.type = 'task.queued' and e.data ->> 'reason' is distinct from 'not_taken')
        window task as (partition by e.task_id order by e.transaction_id, e.event_id)
    )"""

# What an attempt waited for answers, as spans that do not overlap.
_WAITS = """
    asked as (
        select p.assignment_id, p.created_at, p.ended_at,
               max(p.ended_at) over (partition by p.assignment_id order by p.created_at, p.permission_id
                                     rows between unbounded preceding and 1 preceding) as covered
        from permissions p
        where p.task_id in (select task_id from tasks where run_id = %(run_id)s)
          and p.ended_at is not null
    ), spans as (
        select assignment_id, created_at, ended_at,
               count(*) filter (where covered is null or created_at > covered)
                   over (partition by assignment_id order by created_at, ended_at) as span
        from asked
    ), waits as (
        select max(ended_at) - min(created_at) as lasted from spans group by assignment_id, span
    )"""

_DURATIONS = Query(f"""
    with {_STARTS}, {_WAITS}, durations as (
        select 'queue' as name,
               greatest(0, 1000 * (extract(epoch from a.offered_at - m.at_before)
                   - coalesce((m.data_before ->> 'delayS')::float8, 0))) as ms
        from moments m join assignments a on a.assignment_id = m.data ->> 'assignmentId'
        where m.type = 'task.running' and m.type_before in ('task.admitted', 'task.queued')
        union all
        select 'wait', 1000 * extract(epoch from lasted) from waits
        union all
        select 'assignment', 1000 * extract(epoch from a.accepted_at - a.offered_at)
        from assignments a
        where a.task_id in (select task_id from tasks where run_id = %(run_id)s)
          and a.accepted_at is not null
        union all
        select 'run', 1000 * extract(epoch from a.ended_at - a.accepted_at)
        from assignments a
        where a.task_id in (select task_id from tasks where run_id = %(run_id)s)
          and a.accepted_at is not null and a.ended_at is not null
    )
    select name, {_SPREAD} from durations group by name""")

# Attempts under way at once: a sweep over starts and ends; an end goes before a start of the same moment.
_ATTEMPTS = Query("""
    with attempt as (
        select a.state, a.accepted_at, coalesce(a.ended_at, now()) as ended_at from assignments a
        where a.task_id in (select task_id from tasks where run_id = %(run_id)s)
    ), step as (
        select accepted_at as at, 1 as change from attempt where accepted_at is not null
        union all
        select ended_at, -1 from attempt where accepted_at is not null
    ), level as (
        select at, sum(change) over (order by at, change rows unbounded preceding) as running,
               lead(at) over (order by at, change) as next_at
        from step
    ), busy as (
        select max(running) as most,
               sum(running * extract(epoch from next_at - at)) as work_s,
               sum(extract(epoch from next_at - at)) filter (where running > 0) as busy_s
        from level
    )
    select (select count(*) from attempt where accepted_at is not null),
           (select count(*) from attempt where state = 'lost' and accepted_at is not null),
           (select count(*) from attempt where state = 'lost' and accepted_at is null),
           (select count(*) from attempt where state = 'declined'),
           (select count(*) from events where run_id = %(run_id)s and type = 'task.queued'
                and data ->> 'reason' in ('retry', 'retried')),
           coalesce(busy.most, 0), (busy.work_s / nullif(busy.busy_s, 0))::float8
    from busy""")

_WALL = Query("""
    select now(), extract(epoch from coalesce(
        r.completed_at, case when %(live)s then now() end,
        (select max(finished_at) from tasks where run_id = r.run_id), now()) - r.created_at)::float8
    from runs r where r.run_id = %(run_id)s""")


async def of_run(conn: Connection, owner_id: str, reference: str) -> RunMetrics:
    """The metrics of one run, as of now."""
    found = await runs.get(conn, owner_id, reference)
    counts = {TaskStatus(status): n for status, n in found.task_counts.items()}
    live = sum(n for status, n in counts.items() if status not in TERMINAL)
    params = {"run_id": found.run_id, "live": live > 0}
    spreads = {r[0]: _distribution(r[1:]) for r in await rows(conn, _DURATIONS, params)}
    none = Distribution(count=0)
    attempts = await row(conn, _ATTEMPTS, params)
    wall = await row(conn, _WALL, params)
    usage = await transcripts.of_run(conn, found.run_id)
    assert attempts is not None
    assert wall is not None
    accepted, lost, not_taken, declined, retries, most, mean = attempts
    ended = sum(counts.get(status, 0) for status in TERMINAL)
    succeeded = counts.get(TaskStatus.SUCCEEDED, 0)
    return RunMetrics(
        run_id=found.run_id, run_key=found.run_key, state=found.state, measured_at=wall[0],
        wall_ms=_ms(wall[1] * 1000),
        queue=spreads.get("queue", none), assignment=spreads.get("assignment", none),
        run=spreads.get("run", none), wait=spreads.get("wait", none),
        success=Success(
            tasks=sum(counts.values()), succeeded=succeeded,
            failed=counts.get(TaskStatus.FAILED, 0), cancelled=counts.get(TaskStatus.CANCELLED, 0),
            live=live, rate=succeeded / ended if ended else None,
        ),
        attempts=accepted, retries=retries, infrastructure_losses=lost, offers_not_taken=not_taken,
        declined=declined,
        parallelism=Parallelism(mean=None if mean is None else round(mean, 3), max=most),
        usage=usage, tokens=usage.tokens if usage else None,
        cost_micro_usd=usage.cost_micro_usd if usage else None,
    )  # fmt: skip


def _distribution(found: tuple[Any, ...]) -> Distribution:
    count, mean, largest, percentiles = found
    p50, p90, p99 = percentiles
    return Distribution(
        count=count, mean_ms=_ms(mean), p50_ms=_ms(p50), p90_ms=_ms(p90), p99_ms=_ms(p99),
        max_ms=_ms(largest),
    )  # fmt: skip


def _ms(value: float) -> float:
    return round(value, 3)
