"""What isolation adds to a task: the time between its acceptance and its end, of the same command, taken in turns
in a daemon without isolation, behind bubblewrap, and behind it with limits and a network list.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from datetime import datetime
from typing import Any

import httpx2

from bench.fleet import daemon
from bench.measure import emit, percentile
from bench.plane import Plane, plane

KINDS = {
    "process": "",
    "bubblewrap": '[isolation]\nkind = "bubblewrap"\n',
    "limits": '[isolation]\nkind = "bubblewrap"\nmemoryMb = 512\ncpus = 2.0\nprocesses = 128\n',
    "network": '[isolation]\nkind = "bubblewrap"\nnetworkAllow = ["example.com"]\n',
}
TASKS = 80
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")


def one(client: httpx2.Client, key: str, task: dict[str, Any]) -> dict[str, Any]:
    """Run one task to its end; the task as the API shows it."""
    body = {"name": key, "projectKey": "bench", "close": True,
            "tasks": [{"taskKey": "t", "title": "t", "adapter": "command", **task}]}  # fmt: skip
    answer = client.post(f"/v1/runs/{key}/graph", json=body).raise_for_status().json()
    task_id = answer["tasks"][0]["taskId"]
    while True:
        found = client.get(f"/v1/tasks/{task_id}").raise_for_status().json()
        if found["status"] in ENDED:
            assert found["status"] == "SUCCEEDED", found
            return found
        time.sleep(0.01)


def added(server: Plane) -> None:
    """Milliseconds that each kind takes, and adds."""
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with contextlib.ExitStack() as stack:
        for kind, table in KINDS.items():
            more = f'capabilities = ["{kind}"]\n{table}'
            stack.enter_context(daemon(server, 1, more=more))
        client = stack.enter_context(server.client())
        for n in range(int(os.environ.get("N") or TASKS)):
            for kind in KINDS:
                task = {"input": {"argv": ["true"]}, "requiredCapabilities": [kind]}
                attempt = one(client, f"{kind}-{n}", task)["attempts"][-1]
                began, ended = (datetime.fromisoformat(attempt[k]) for k in ("acceptedAt", "endedAt"))
                if n >= 5:
                    taken[kind].append((ended - began).total_seconds() * 1000)
                time.sleep(0.04)  # the next supervisor is being made meanwhile, as in life
    plain = statistics.median(taken["process"])
    for kind, values in taken.items():
        emit("isolation_task", kind=kind, n=len(values), p50_ms=round(statistics.median(values), 1),
             p90_ms=round(percentile(values, 90), 1), min_ms=round(min(values), 1),
             added_p50_ms=round(statistics.median(values) - plain, 1))  # fmt: skip


def main() -> None:
    with plane() as server:
        added(server)


if __name__ == "__main__":
    main()
