"""A control plane to measure: a real `flakes server` process on an embedded PostgreSQL in a scratch directory."""

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
import msgspec
import psycopg


@dataclass
class Plane:
    """A running server: its URL, the owner's token, its process, and a DSN for looking inside."""

    url: str
    token: str
    process: subprocess.Popen[bytes]
    directory: Path

    def client(self) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=120.0
        )

    def dsn(self) -> str:
        from flakes.store.embedded import EmbeddedPostgres

        return EmbeddedPostgres(self.directory / "postgresql").start().dsn

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.dsn(), autocommit=True)

    def sandboxes(self, count: int) -> list[tuple[str, str]]:
        """Register sandboxes that run by hand: (sandbox id, credential)."""
        with self.client() as client:
            answers = [
                client.post("/v1/sandboxes", json={"name": f"bench-{n}"}).raise_for_status().json()
                for n in range(count)
            ]
        return [(a["sandbox"]["sandboxId"], a["rawCredential"]) for a in answers]

    def memory_mib(self) -> float:
        """Resident memory of the server process (without PostgreSQL)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def cpu_s(self) -> float:
        """Processor time of the server process so far."""
        return _ticks(self.process.pid, 11, 12) / os.sysconf("SC_CLK_TCK")

    def postgres_cpu_s(self) -> float:
        """Processor time of PostgreSQL so far: its processes that live, and those that have ended."""
        postmaster = int((self.directory / "postgresql/data/postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        ticks = _ticks(postmaster, 11, 12, 13, 14) + sum(_ticks(int(pid), 11, 12) for pid in children)
        return ticks / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int, *fields: int) -> int:
    """Sum of counters of `/proc/PID/stat`, counted from the field after the name."""
    with contextlib.suppress(OSError):
        counted = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(int(counted[field]) for field in fields)
    return 0


@contextlib.contextmanager
def plane() -> Iterator[Plane]:
    """Start a server, yield it, stop it and remove everything."""
    directory = Path(tempfile.mkdtemp(prefix="flakes-bench-"))
    directory.chmod(0o711)
    config = directory / "server.toml"
    config.write_text(
        f'[listen]\nport = 0\n[database]\ndataDir = "{directory}/postgresql"\n'
        f'[auth]\nlocalCredentialFile = "{directory}/owner.credential"\n'
    )
    ready = directory / "ready.json"
    log = (directory / "server.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "flakes.server", "--config", str(config)],
        env=os.environ | {"FLAKES_READY_FILE": str(ready)}, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((directory / "server.log").read_text()[-4000:])
            time.sleep(0.02)
        url = msgspec.json.decode(ready.read_bytes())["server"]
        token = (directory / "owner.credential").read_text().strip()
        started = Plane(url, token, process, directory)
        with started.client() as client:
            client.put("/v1/projects/bench", json={"name": "Bench"}).raise_for_status()
        yield started
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        if os.environ.get("FLAKES_BENCH_KEEP"):
            print(directory, file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)
