"""Throughput again with a million finished tasks in the database; the ratio to the same server before."""

from __future__ import annotations

import os
import statistics
import time

from bench.fleet import Fleet
from bench.measure import emit
from bench.plane import Plane, plane
from bench.throughput import run_once

FILL = """
    with owner as (select owner_id, project_id from projects where project_key = 'bench'),
    class as (
        insert into task_classes (owner_id, project_id, adapter, capabilities)
        select owner_id, project_id, 'filled', '{}' from owner
        on conflict (owner_id, project_id, adapter, capabilities) do update set adapter = 'filled'
        returning class_id
    ), run as (
        insert into runs (run_id, owner_id, project_id, run_key, name, definition_digest, closed, state,
                          counts, completed_at)
        select 'run_0' || lpad(n::text, 25, '0'), owner_id, project_id, 'old-' || n, 'old', '', true,
               'SUCCEEDED', array[0,0,0,0,0,%(per_run)s::integer,0,0], now()
        from owner, generate_series(%(first)s::integer, %(last)s::integer) n
        returning run_id
    ), task as (
        insert into tasks (task_id, run_id, task_key, class_id, title, adapter, status, admitted_at,
                           finished_at)
        select 'task_0' || lpad(right(run_id, 12) || lpad(k::text, 5, '0'), 25, '0'), run_id, 't' || k,
               class_id, 'An old task', 'filled', 'SUCCEEDED', now(), now()
        from run, class, generate_series(1, %(per_run)s::integer) k
        returning task_id, run_id
    ), payload as (
        insert into task_payloads (task_id, definition)
        select task_id, '{"title":"An old task","adapter":"filled"}' from task
    ), assignment as (
        insert into assignments (assignment_id, task_id, run_id, sandbox_id, attempt, state, live, ended_at)
        select 'assignment_' || right(task_id, 26), task_id, run_id, 'sandbox_gone', 1, 'succeeded', false, now()
        from task
    ), result as (
        insert into task_results (task_id, assignment_id, result)
        select task_id, 'assignment_' || right(task_id, 26), '{"text":"done"}' from task
    )
    insert into events (owner_id, run_id, task_id, type)
    select owner_id, run_id, task_id, type
    from task, owner, unnest(array['task.admitted', 'task.running', 'task.succeeded']) type"""


def fill(server: Plane, count: int, per_run: int = 1_000) -> float:
    began = time.monotonic()
    with server.connect() as conn:
        for first in range(0, count // per_run, 50):
            last = min(first + 50, count // per_run) - 1
            conn.execute(FILL, {"first": first, "last": last, "per_run": per_run})
        conn.execute("analyze")
    return time.monotonic() - began


def median_of(server: Plane, fleet: Fleet, prefix: str, n: int) -> float:
    run_once(server, fleet, f"{prefix}-warm", n)
    return statistics.median(run_once(server, fleet, f"{prefix}-{k}", n)["tasks_per_s"] for k in range(5))


def main() -> None:
    finished = int(os.environ.get("N") or "1000000")
    with plane() as server:
        fleet = Fleet(server, 4, 256)
        before = median_of(server, fleet, "before", 10_000)
        filled_s = fill(server, finished)
        time.sleep(5)
        after = median_of(server, fleet, "after", 10_000)
        fleet.close()
    emit("throughput_with_history", finished=finished, before_tasks_per_s=before, after_tasks_per_s=after,
         ratio=round(after / before, 2), filled_s=round(filled_s, 1))  # fmt: skip


if __name__ == "__main__":
    main()
