"""No-op tasks a second over the whole path: admit, place, deliver, accept, result, acknowledge; all durable."""

from __future__ import annotations

import os
import time

from bench.fleet import Fleet
from bench.measure import emit
from bench.plane import Plane, plane


def tasks(count: int, prefix: str = "t") -> list[dict[str, object]]:
    return [{"taskKey": f"{prefix}{n}", "title": f"Task {n}", "adapter": "noop"} for n in range(count)]


def submit(server: Plane, key: str, body: list[dict[str, object]]) -> float:
    """Submit a graph; the seconds it took."""
    with server.client() as client:
        started = time.monotonic()
        answer = client.post(
            f"/v1/runs/{key}/graph",
            json={"name": key, "projectKey": "bench", "tasks": body, "close": True},
        )
        answer.raise_for_status()
        return time.monotonic() - started


def run_once(server: Plane, fleet: Fleet, key: str, count: int) -> dict[str, float]:
    """Admit `count` tasks and wait until every result is acknowledged (two messages a task)."""
    cpu, postgres_cpu = server.cpu_s(), server.postgres_cpu_s()
    started = time.monotonic()
    admitted_s = submit(server, key, tasks(count))
    acked = 0
    for report in fleet.reports():
        acked += report.get("acked", 0)
        if acked >= 2 * count:
            break
    elapsed_s = time.monotonic() - started
    with server.client() as client:
        state = client.get(f"/v1/runs/{key}").json()["state"]
    assert state == "SUCCEEDED", state
    return {
        "tasks_per_s": round(count / elapsed_s, 1), "elapsed_s": round(elapsed_s, 3),
        "admit_s": round(admitted_s, 3), "server_cpu_s": round(server.cpu_s() - cpu, 2),
        "postgres_cpu_s": round(server.postgres_cpu_s() - postgres_cpu, 2),
        "server_mib": round(server.memory_mib(), 1),
    }  # fmt: skip


def main() -> None:
    count = int(os.environ.get("N") or "10000")
    sandboxes = int(os.environ.get("SANDBOXES", "4"))
    slots = int(os.environ.get("SLOTS", "256"))
    runs = int(os.environ.get("RUNS", "3"))
    with plane() as server:
        fleet = Fleet(server, sandboxes, slots)
        for n in range(runs):
            figures = run_once(server, fleet, f"throughput-{n}", count)
            emit("throughput", n=count, sandboxes=sandboxes, slots=slots, **figures)
        fleet.close()


if __name__ == "__main__":
    main()
