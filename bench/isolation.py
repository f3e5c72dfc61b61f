"""What isolation costs: the time it adds to a task, and what a host with 200 isolated sandboxes needs.

The time is that between the acceptance of a task and its end, of the same command in the same run, taken in turns:
in a daemon without isolation, behind bubblewrap, and behind it with limits and a network list. `N` sets how many
sandboxes the host holds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2

from bench.fleet import daemon
from bench.measure import emit, percentile, until
from bench.plane import Plane, plane

KINDS = {
    "process": "",
    "bubblewrap": '[isolation]\nkind = "bubblewrap"\n',
    "limits": '[isolation]\nkind = "bubblewrap"\nmemoryMb = 512\ncpus = 2.0\nprocesses = 128\n',
    "network": '[isolation]\nkind = "bubblewrap"\nnetworkAllow = ["example.com"]\n',
}
TASKS = 80
SANDBOXES = 200
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
        for n in range(TASKS):
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


@contextlib.contextmanager
def host(server: Plane, sandboxes: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real host with one isolated pool."""
    with server.client() as client:
        answer = client.post("/v1/hosts/setup", json={"hostName": "bench", "autoBind": True})
    made = answer.raise_for_status().json()
    directory = Path(tempfile.mkdtemp(prefix="flakes-bench-host-"))
    credential = directory / "host.credential"
    credential.touch(0o600)
    credential.write_text(made["rawCredential"])
    config = directory / "host.toml"
    config.write_text(
        f'controlPlaneUrl = "{server.url}"\nhostId = "{made["host"]["hostId"]}"\n'
        f'credentialFile = "{credential}"\nstateDir = "{directory}/state"\n'
        f'[[pools]]\npoolKey = "isolated"\nprovider = "bubblewrap"\nadapter = "command"\n'
        f"maxInstances = {sandboxes}\nmaxConcurrency = 1\n"
        f"resourceBounds = {{ memoryMb = 512, processes = 128 }}\n"
    )
    log = (directory / "log").open("wb")
    argv = [sys.executable, "-m", "flakes.host", "run", "--config", str(config)]
    process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(120)
        process.kill()
        shutil.rmtree(directory, ignore_errors=True)


def family(pid: int) -> list[int]:
    """A process and everything below it."""
    found = [pid]
    for each in found:
        for thread in Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in thread.read_text().split()]
    return found


def shared_out_mib(pid: int) -> float:
    """Memory of a process with what it shares divided among those that share it."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def cpu_s(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def held(server: Plane, sandboxes: int, idle_s: float) -> None:
    """Memory and processor time of a host with that many connected, idle sandboxes."""
    with host(server, sandboxes) as process, server.client() as client:
        began = time.monotonic()
        tasks = [
            {"taskKey": f"t{n}", "title": "t", "adapter": "command", "input": {"shell": "sleep 15"}}
            for n in range(sandboxes)
        ]
        body = {"name": "many", "projectKey": "bench", "close": True, "tasks": tasks}
        client.post("/v1/runs/many/graph", json=body).raise_for_status()
        run = "/v1/runs/many"
        until(lambda: client.get(run).json()["state"] in ENDED, 900.0)
        took_s = time.monotonic() - began
        assert client.get(run).json()["state"] == "SUCCEEDED"
        time.sleep(10)
        pids = family(process.pid)
        before = cpu_s(pids)
        time.sleep(idle_s)
        pids = family(process.pid)
        spent_s = cpu_s(pids) - before
        daemons = [pid for pid in pids if b"flakes.sandbox" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        mib = {pid: shared_out_mib(pid) for pid in pids}
        emit("isolation_host", sandboxes=len(daemons), processes=len(pids), all_tasks_s=round(took_s, 1),
             total_mib=round(sum(mib.values())), per_sandbox_mib=round((sum(mib.values()) - mib[process.pid]) / max(1, len(daemons)), 1),
             host_mib=round(mib[process.pid], 1), idle_cpu_percent=round(spent_s / idle_s * 100, 1))  # fmt: skip


def main() -> None:
    sandboxes = int(os.environ.get("N") or SANDBOXES)
    with plane() as server:
        added(server)
    with plane() as server:
        held(server, sandboxes, 30.0)


if __name__ == "__main__":
    main()
