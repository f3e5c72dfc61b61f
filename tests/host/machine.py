"""One machine for tests: a credential, a configuration and the host as a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flakes import processes
from host.control_plane import HOST_ID, TOKEN

PATIENCE_S = 40.0
STAND_IN_HOST = Path(__file__).with_name("stand_in_host.py")


class Machine:
    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url
        self.state = directory / "state"
        self.config = directory / "host.toml"
        self.credential = directory / "host.credential"
        self.log = directory / "host.log"
        self.host: subprocess.Popen[bytes] | None = None
        self.sandboxes: set[str] = set()
        write_private(self.credential, TOKEN + "\n")

    def configure(
        self, *, mode: str = "stay", adapter: str = "command", more: str = "", pool_more: str = ""
    ) -> None:
        self.config.write_text(
            f"""\
controlPlaneUrl = "{self.url}"
hostId = "{HOST_ID}"
credentialFile = "{self.credential}"
stateDir = "{self.state}"
{more}
[[pools]]
poolKey = "here"
adapter = "{adapter}"
maxInstances = 3
maxConcurrency = 2
advertisedCapabilities = ["linux", "fast"]
{pool_more}
[pools.env]
MODE = "{mode}"
SECRET = "do-not-send-me"
"""
        )

    def start(self, *, real: bool = False) -> None:
        argv = (
            [sys.executable, "-m", "flakes.host", "run", "--config", str(self.config)]
            if real
            else [sys.executable, str(STAND_IN_HOST), str(self.config)]
        )
        with self.log.open("ab") as log:
            self.host = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.host
        self.host.kill()
        self.host.wait()

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code, within 20 s."""
        assert self.host
        self.host.send_signal(number)
        return self.host.wait(20)

    def is_up(self) -> bool:
        return self.host is not None and self.host.poll() is None

    def instance(self, number: int = 1) -> Path:
        return self.state / "instances" / f"instance_{number}"

    def daemon_pid(self, number: int = 1) -> int:
        """The recorded pid, 0 when there is none."""
        try:
            return json.loads((self.instance(number) / "record.json").read_bytes())["pid"]
        except FileNotFoundError:
            return 0

    def new_daemon(self, old: int, number: int = 1) -> int:
        """Wait for a running daemon with another pid."""
        wait(lambda: self.daemon_pid(number) not in (0, old), f"a daemon after {old}")
        return self.daemon_pid(number)

    def leftovers(self) -> list[int]:
        """Every process that has the mark of a sandbox of this machine or works inside its state."""
        found: list[int] = []
        for pid in processes.table():
            marks = [v for v in processes.environment(pid) if v.startswith(b"FLAKES_SANDBOX_ID=")]
            ours = str(self.state) in processes.directory(pid)
            if ours or (marks and str(self.state).encode() in b" ".join(processes.arguments(pid))):
                found.append(pid)
        return found

    def clean(self) -> None:
        if self.is_up():
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                self.kill()
        for pid in self.leftovers():
            os.kill(pid, signal.SIGKILL)


def write_private(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def wait(condition: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
    """Poll for what no channel announces (files, foreign processes)."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within_s} s for {what}")
        time.sleep(0.01)
