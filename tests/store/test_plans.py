"""Lists and lookups read an index whatever the combination of filters, with the plans that are really used.

Both kinds of plan are looked at: for the values at hand, and the generic one that a statement gets after
a few executions on one connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from bench.listing import FILL_RUN, FILL_RUNS, LARGE

from flakes.store import events, log_retention, logs, runs, tasks
from flakes.store.database import Query

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

RUNS = 20_000
TASKS = 4_000
BIG = {"runs", "tasks", "task_payloads", "task_dependencies", "task_results", "assignments", "events", "log_chunks"}
OWNER = "user_1"
RUN = f"run_0{RUNS // 2:025}"
TASK = f"task_{LARGE[-8:]}{5:018}"
ASSIGNMENT = f"assignment_{LARGE[-8:]}{5:018}"


@pytest.fixture(scope="module")
def filled(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    import postgres

    info, template = request.getfixturevalue("postgres"), request.getfixturevalue("template")
    with postgres._fresh(info, template) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("insert into users (user_id, name) values ('user_1', 'one'), ('user_2', 'two')")
        for project in ("bench", "small"):
            conn.execute(
                "insert into projects (project_id, owner_id, project_key, name) values (%s, 'user_1', %s, 'x')",
                [f"project_{project}", project],
            )
        for first in range(0, RUNS, 1_000):
            last = first + 1_000
            conn.execute(FILL_RUNS, {"project": "bench", "first": first, "last": last - 11})
            conn.execute(FILL_RUNS, {"project": "small", "first": last - 10, "last": last - 1})
        for n in range(1, 9):
            conn.execute(FILL_RUN, {"run_id": LARGE[:-1] + str(n), "key": f"large-{n}", "count": TASKS})
        conn.execute("vacuum analyze")
        yield conn


BEFORE = {"owner_id": OWNER, "before": RUN, "limit": 50}
SEARCH = BEFORE | {"before": runs._AFTER_ALL, "state": None, "project_key": None}
CASES: dict[str, tuple[Query, dict[str, Any]]] = {
    "runs": (runs._LIST, BEFORE),
    "runs from the newest": (runs._LIST, BEFORE | {"before": runs._AFTER_ALL}),
    "runs of a state": (runs._LIST_STATE, BEFORE | {"state": "FAILED"}),
    "runs of a state that none has": (runs._LIST_STATE, BEFORE | {"state": "STALLED"}),
    "runs of a project": (runs._LIST_PROJECT, BEFORE | {"project_key": "small"}),
    "runs of the large project": (runs._LIST_PROJECT, BEFORE | {"project_key": "bench"}),
    "runs of a project and state": (
        runs._LIST_PROJECT_STATE, BEFORE | {"project_key": "bench", "state": "FAILED"},
    ),
    "runs of somebody who has none": (runs._LIST, BEFORE | {"owner_id": "user_2"}),
    "run by id": (runs._GET_BY_ID, {"owner_id": OWNER, "run": RUN}),
    "run by key": (runs._GET_BY_KEY, {"owner_id": OWNER, "run": "old-77"}),
    "run id by id": (runs._RESOLVE_ID, {"owner_id": OWNER, "run": RUN}),
    "run id by key": (runs._RESOLVE_KEY, {"owner_id": OWNER, "run": "old-77"}),
    "runs to delete": (runs._DELETING, {}),
    "first tasks": (tasks._PAGE, {"run_id": LARGE, "after": "", "limit": 200}),
    "tasks by default": (tasks._PAGE, {"run_id": LARGE, "after": "", "limit": 1_000}),
    "tasks after one": (tasks._PAGE, {"run_id": LARGE, "after": TASK, "limit": 200}),
    "tasks of a state": (
        tasks._PAGE_STATUS, {"run_id": LARGE, "after": "", "limit": 200, "status": "FAILED"},
    ),
    "a task": (tasks._GET, {"owner_id": OWNER, "task_id": TASK}),
    "a task's state": (tasks._STATE, {"owner_id": OWNER, "task_id": TASK}),
    "attempts with logs": (logs._ATTEMPTS, {"task_id": TASK, "assignment_id": ""}),
    "log from a line": (logs._FROM_LINE, {"assignment_id": ASSIGNMENT, "line": 50, "limit": 16}),
    "log before a line": (logs._BEFORE_LINE, {"assignment_id": ASSIGNMENT, "line": 50, "limit": 16}),
    "a word that many runs have": (runs._SEARCH_NEWEST, SEARCH | {"words": "run", "like": "%run%"}),
    "a word that one run has": (runs._SEARCH, SEARCH | {"words": "large-3", "like": "%large-3%"}),
    "a word that no run has": (runs._SEARCH, SEARCH | {"words": "xyzzy", "like": "%xyzzy%"}),
    "log to drop": (
        log_retention._RANGES, {"task_id": TASK, "heads_bytes": 1_000, "excess_bytes": 1_000},
    ),
    "events of a run": (events._OF_RUN, {
        "run_id": LARGE, "owner_id": OWNER, "transaction": "0", "event": 0, "task_id": None,
        "types": None, "limit": 500,
    }),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", CASES)
def test_no_big_table_is_scanned(filled: psycopg.Connection[Any], name: str, mode: str) -> None:
    query, params = CASES[name]
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", query)))
    text = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", query)
    filled.execute(f"set plan_cache_mode = {mode}")
    filled.execute(f"prepare looked_at as {text}".encode())
    try:
        values = ", ".join(_literal(params[each]) for each in names)
        call = f"looked_at({values})" if names else "looked_at"
        (row,) = filled.execute(f"explain (analyze, buffers, format json) execute {call}".encode()).fetchone()  # type: ignore[misc]
    finally:
        filled.execute("deallocate looked_at")
    plan = row[0]["Plan"]
    scans = [node for node in _nodes(plan) if node["Node Type"] == "Seq Scan"]
    assert {node["Relation Name"] for node in scans} & BIG == set(), plan
    limit = params.get("limit", 1)
    blocks = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    assert blocks <= 100 + 16 * limit, f"{blocks} blocks for {limit} rows"


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _literal(value: Any) -> str:
    return "null" if value is None else str(value) if isinstance(value, int) else f"'{value}'"
