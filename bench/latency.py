"""From admission to delivery, and to the first line of the command, on an idle system with a warm sandbox."""

from __future__ import annotations

import os
import time

from bench.fleet import Fleet, daemon
from bench.measure import emit, spread_ms, until
from bench.plane import Plane, plane


def graph(key: str, task: dict[str, object]) -> dict[str, object]:
    return {"name": key, "projectKey": "bench", "close": True,
            "tasks": [{"taskKey": "t", "title": "t", **task}]}  # fmt: skip


def delivered(server: Plane, count: int) -> None:
    """Just before the request is sent → the sandbox has the offer."""
    fleet = Fleet(server, 1, 8)
    reports = fleet.reports()
    taken: list[float] = []
    with server.client() as client:
        for n in range(count):
            time.sleep(0.02)
            started = time.monotonic()
            client.post(f"/v1/runs/delivered-{n}/graph", json=graph(f"d{n}", {"adapter": "noop"}))
            report = next(r for r in reports if "offered" in r)
            taken.append(report["at"] - started)
    fleet.close()
    emit("admit_to_delivered", n=count, **spread_ms(taken))


def started(server: Plane, count: int) -> None:
    """Just before the request is sent → the command runs (it writes the time)."""
    with daemon(server, 2) as directory:
        taken: list[float] = []
        with server.client() as client:
            for n in range(count):
                file = directory / f"stamp-{n}"
                line = f"date +%s.%N > {file}.new; mv {file}.new {file}"
                began = time.time()
                body = graph(f"s{n}", {"adapter": "command", "input": {"shell": line}})
                client.post(f"/v1/runs/started-{n}/graph", json=body).raise_for_status()
                until(file.exists)
                taken.append(float(file.read_text()) - began)
                time.sleep(0.05)
    emit("admit_to_command_started", n=count, **spread_ms(taken[3:]))


def chain(server: Plane, length: int) -> None:
    """A chain of dependent no-op tasks: milliseconds a step."""
    fleet = Fleet(server, 1, 8)
    tasks = [
        {"taskKey": f"t{n}", "title": "t", "adapter": "noop", "dependsOn": [f"t{n - 1}"] if n else []}
        for n in range(length)
    ]
    with server.client() as client:
        began = time.monotonic()
        client.post("/v1/runs/chain/graph", json={"name": "c", "projectKey": "bench", "close": True, "tasks": tasks})
        acked = 0
        for report in fleet.reports():
            acked += report.get("acked", 0)
            if acked >= 2 * length:
                break
        elapsed_s = time.monotonic() - began
    fleet.close()
    emit("chain", n=length, ms_per_step=round(elapsed_s * 1000 / length, 2))


def main() -> None:
    count = int(os.environ.get("N") or "200")
    with plane() as server:
        delivered(server, count)
        chain(server, 50)
        started(server, min(count, 100))


if __name__ == "__main__":
    main()
