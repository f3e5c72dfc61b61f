"""Lists over 100,000 runs of one owner and one run of 10,000 tasks, through HTTP: p50, p95 and maximum.

Also the metrics and the history of that run, and the memory that the export costs the server.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import httpx2

from bench.measure import emit, percentile
from bench.plane import Plane, plane

FILL_RUNS = """
    with owner as (select owner_id, project_id from projects where project_key = %(project)s)
    insert into runs (run_id, owner_id, project_id, run_key, name, definition_digest, closed, state,
                      counts, completed_at)
    select 'run_0' || lpad(n::text, 25, '0'), owner_id, project_id, 'old-' || n, 'An old run', '', true,
           case when n %% 1000 = 0 then 'FAILED' else 'SUCCEEDED' end,
           array[0,0,0,0,0,10,0,0], now()
    from owner, generate_series(%(first)s::integer, %(last)s::integer) n"""

FILL_RUN = """
    with owner as (select owner_id, project_id from projects where project_key = 'bench'),
    class as (
        insert into task_classes (owner_id, project_id, adapter, capabilities)
        select owner_id, project_id, 'filled', '{}' from owner
        on conflict (owner_id, project_id, adapter, capabilities) do update set adapter = 'filled'
        returning class_id
    ), run as (
        insert into runs (run_id, owner_id, project_id, run_key, name, definition_digest, closed, state,
                          counts, completed_at)
        select %(run_id)s, owner_id, project_id, %(key)s, 'A large run', '', true, 'SUCCEEDED',
               array[0,0,0,0,0,%(count)s,0,0], now()
        from owner
    ), task as (
        insert into tasks (task_id, run_id, task_key, class_id, title, adapter, status, admitted_at,
                           queued_at, started_at, finished_at)
        select 'task_' || right(%(run_id)s, 8) || lpad(k::text, 18, '0'), %(run_id)s, 't' || k, class_id,
               'A task of a large run', 'filled', 'SUCCEEDED', now() - interval '1 min',
               now() - interval '1 min', now() - interval '50 s', now() - random() * interval '40 s'
        from class, generate_series(1, %(count)s::integer) k
        returning task_id, task_key
    ), payload as (
        insert into task_payloads (task_id, definition)
        select task_id, json_build_object('title', 'A task', 'adapter', 'filled', 'bodyMarkdown', repeat('words ', 200))
        from task
    ), edge as (
        insert into task_dependencies (depends_on, task_id)
        select 'task_' || right(%(run_id)s, 8) || lpad((k - 1)::text, 18, '0'),
               'task_' || right(%(run_id)s, 8) || lpad(k::text, 18, '0')
        from generate_series(2, %(count)s::integer, 2) k
    ), assignment as (
        insert into assignments (assignment_id, task_id, run_id, sandbox_id, attempt, state, live,
                                 offered_at, accepted_at, ended_at)
        select 'assignment_' || right(task_id, 26), task_id, %(run_id)s, 'sandbox_gone', 1, 'succeeded',
               false, now() - interval '51 s', now() - interval '50 s', now() - random() * interval '40 s'
        from task
    ), chunk as (
        insert into log_chunks (assignment_id, first_line, line_count, lines, size_bytes)
        select 'assignment_' || right(task_id, 26), 0, 100,
               (select json_agg(json_build_object('channel', 'stdout', 'atMs', 1, 'text', 'line ' || l || repeat('.', 60)))
                from generate_series(1, 100) l), 10000
        from task
    ), result as (
        insert into task_results (task_id, assignment_id, result)
        select task_id, 'assignment_' || right(task_id, 26), '{"text":"done","outputs":{}}' from task
    )
    insert into events (owner_id, run_id, task_id, type, data)
    select owner_id, %(run_id)s, task_id, type,
           json_build_object('status', 'QUEUED', 'assignmentId', 'assignment_' || right(task_id, 26))
    from task, owner, unnest(array['task.admitted', 'task.running', 'task.succeeded']) type"""

LARGE = "run_0zzzzzzzzzzzzzzzzzzzzzzzz1"


def fill(server: Plane, runs: int, tasks: int) -> None:
    with server.client() as client:
        client.put("/v1/projects/small", json={"name": "Small"}).raise_for_status()
    with server.connect() as conn:
        # A hundredth of the runs is of another project, spread over all of them.
        for first in range(0, runs, 1_000):
            last = min(runs, first + 1_000)
            conn.execute(FILL_RUNS, {"project": "bench", "first": first, "last": last - 11})
            conn.execute(FILL_RUNS, {"project": "small", "first": last - 10, "last": last - 1})
        for n in range(1, 4):
            run_id = LARGE[:-1] + str(n)
            conn.execute(FILL_RUN, {"run_id": run_id, "key": f"large-{n}", "count": tasks})
        conn.execute("analyze")


def measured(client: httpx2.Client, path: str, count: int, **params: Any) -> dict[str, float]:
    times: list[float] = []
    size = 0
    for _ in range(count):
        began = time.monotonic()
        response = client.get(path, params=params)
        times.append(time.monotonic() - began)
        size = len(response.raise_for_status().content)
    return {
        "p50_ms": round(statistics.median(times) * 1000, 1),
        "p95_ms": round(percentile(times, 95) * 1000, 1),
        "max_ms": round(max(times) * 1000, 1),
        "bytes": size,
    }


def main() -> None:
    runs = int(os.environ.get("N") or "100000")
    with plane() as server:
        fill(server, runs, 10_000)
        middle = f"run_0{runs // 2:025}"
        with server.client() as client:
            for name, path, params in (
                ("runs", "/v1/runs", {}),
                ("runs_from_the_middle", "/v1/runs", {"cursor": middle}),
                ("runs_of_state", "/v1/runs", {"state": "FAILED"}),
                ("runs_of_absent_state", "/v1/runs", {"state": "STALLED"}),
                ("runs_of_project", "/v1/runs", {"projectKey": "small"}),
                ("runs_of_project_and_state", "/v1/runs", {"projectKey": "bench", "state": "FAILED"}),
                ("run_by_id", f"/v1/runs/{middle}", {}),
                ("run_by_key", f"/v1/runs/old-{runs // 2}", {}),
                ("tasks_first_200", f"/v1/runs/{LARGE}/tasks", {"limit": 200}),
                ("tasks_default", f"/v1/runs/{LARGE}/tasks", {}),
                ("tasks_10000", f"/v1/runs/{LARGE}/tasks", {"limit": 10_000}),
                ("tasks_of_state", f"/v1/runs/{LARGE}/tasks", {"status": "FAILED"}),
                ("metrics", f"/v1/runs/{LARGE}/metrics", {}),
            ):
                client.get(path, params=params).raise_for_status()
                emit(name, runs=runs, **measured(client, path, 20 if name in ("metrics", "tasks_10000") else 100, **params))
            before = server.memory_mib()
            began = time.monotonic()
            size = lines = 0
            peak = before
            with client.stream("GET", f"/v1/runs/{LARGE}/history.jsonl") as response:
                for chunk in response.iter_bytes():
                    size += len(chunk)
                    lines += chunk.count(b"\n")
                    peak = max(peak, server.memory_mib())
            emit("history_of_10000_tasks", seconds=round(time.monotonic() - began, 2), lines=lines,
                 mib=round(size / 2**20, 1), rss_before_mib=round(before, 1), rss_peak_mib=round(peak, 1))  # fmt: skip


if __name__ == "__main__":
    main()
