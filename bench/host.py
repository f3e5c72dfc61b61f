"""A host with 200 sandboxes: how long they take to launch, what they cost while idle, and how long they take to drain.

`N` is how many; `PROVIDER` is `process` or `bubblewrap`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

from bench.measure import emit, until
from bench.plane import Plane, plane

SANDBOXES = 200
PATIENCE_S = 900.0
IDLE_S = 30.0


@dataclass(frozen=True)
class Host:
    """A real host process with one pool."""

    host_id: str
    pid: int


@contextlib.contextmanager
def host(server: Plane, sandboxes: int, provider: str) -> Iterator[Host]:
    """A host that serves every project of its owner."""
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
        f'[[pools]]\npoolKey = "many"\nprovider = "{provider}"\nadapter = "command"\n'
        f"maxInstances = {sandboxes}\nmaxConcurrency = 1\n"
        + ("resourceBounds = { memoryMb = 512, processes = 128 }\n" if provider == "bubblewrap" else "")
    )
    log = (directory / "log").open("wb")
    argv = [sys.executable, "-m", "flakes.host", "run", "--config", str(config)]
    process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield Host(made["host"]["hostId"], process.pid)
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


def daemons(pids: list[int]) -> list[int]:
    found: list[int] = []
    for pid in pids:
        with contextlib.suppress(OSError):
            found += [pid] if b"flakes.sandbox\0--config" in Path(f"/proc/{pid}/cmdline").read_bytes() else []
    return found


def counted(client: httpx2.Client, status: str) -> int:
    """Tasks of the run in a status; -1 while the server is too busy to answer."""
    answer = client.get("/v1/runs/many")
    return answer.json()["taskCounts"].get(status, 0) if answer.status_code == 200 else -1


def held(server: Plane, sandboxes: int, provider: str) -> None:
    """Launch them with a task each, cancel the tasks, look at what is left, and drain."""
    with host(server, sandboxes, provider) as machine, server.client() as client:
        until(lambda: client.get(f"/v1/hosts/{machine.host_id}").json()["status"] == "online", PATIENCE_S)
        tasks = [
            {"taskKey": f"t{n}", "title": "t", "adapter": "command", "input": {"argv": ["sleep", "86400"]}}
            for n in range(sandboxes)
        ]
        body = {"name": "many", "projectKey": "bench", "close": True, "tasks": tasks}
        began_s, busy_s = time.monotonic(), cpu_s(family(machine.pid))
        client.post("/v1/runs/many/graph", json=body).raise_for_status()
        until(lambda: counted(client, "RUNNING") == sandboxes, PATIENCE_S)
        launched_s = time.monotonic() - began_s
        launch_cpu_s = cpu_s(family(machine.pid)) - busy_s
        client.post("/v1/runs/many/cancel", json={"reason": "all are up"}).raise_for_status()
        until(lambda: counted(client, "CANCELLED") == sandboxes, PATIENCE_S)
        time.sleep(10)
        pids = family(machine.pid)
        before, began_s = cpu_s(pids), time.monotonic()
        time.sleep(IDLE_S)
        idle_percent = (cpu_s(pids) - before) / (time.monotonic() - began_s) * 100
        mib = {pid: shared_out_mib(pid) for pid in family(machine.pid)}
        alive = daemons(list(mib))
        began_s = time.monotonic()
        client.post(f"/v1/hosts/{machine.host_id}/disable", json={"reason": "drained"}).raise_for_status()
        until(lambda: not daemons(family(machine.pid)), PATIENCE_S)
        emit("host", provider=provider, sandboxes=len(alive), processes=len(mib),
             launched_s=round(launched_s, 1), launch_cpu_s_each=round(launch_cpu_s / sandboxes, 2),
             idle_cpu_percent=round(idle_percent, 1), total_mib=round(sum(mib.values())),
             sandbox_mib=round((sum(mib.values()) - mib[machine.pid]) / max(1, len(alive)), 1),
             host_mib=round(mib[machine.pid], 1), drained_s=round(time.monotonic() - began_s, 1))  # fmt: skip


def main() -> None:
    with plane() as server:
        held(server, int(os.environ.get("N") or SANDBOXES), os.environ.get("PROVIDER") or "process")


if __name__ == "__main__":
    main()
