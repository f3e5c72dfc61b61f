"""Machines of the user: a directory, a host process, and what it launches. In a network namespace, or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from api.caller import Api
from embedded_servers import wait_until

_OWN = ("FLAKES_", "DATABASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


class Machine:
    """One machine. `prefix` is the command that runs something on it (`ip netns exec NAME`)."""

    def __init__(
        self,
        directory: Path,
        api: Api,
        servers: Sequence[str],
        *,
        instances: int = 2,
        concurrency: int = 4,
        prefix: Sequence[str] = (),
    ) -> None:
        directory.mkdir()
        self.directory = directory
        self._prefix = prefix
        self.host_id, credential = api.host(hostName=directory.name)
        path = directory / "host.credential"
        path.touch(0o600)
        path.write_text(credential)
        quoted = ", ".join(f'"{server}"' for server in servers)
        (directory / "host.toml").write_text(
            f'controlPlaneUrl = [{quoted}]\nhostId = "{self.host_id}"\ncredentialFile = "{path}"\n'
            f'stateDir = "{directory}/state"\n[[pools]]\npoolKey = "here"\nadapter = "command"\n'
            f"maxInstances = {instances}\nmaxConcurrency = {concurrency}\n"
        )
        self._host: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        return self.directory / "host.log"

    @property
    def pid(self) -> int:
        assert self._host is not None
        return self._host.pid

    def start(self) -> Machine:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(_OWN)}
        with self.log_file.open("ab") as log:
            self._host = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "flakes.host", "run", "--config",
                 str(self.directory / "host.toml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean,
            )  # fmt: skip
        return self

    def is_up(self) -> bool:
        return self._host is not None and self._host.poll() is None

    def wait_online(self, api: Api) -> None:
        wait_until(lambda: api.get(f"/v1/hosts/{self.host_id}").ok()["status"] == "online", 30)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs on it."""
        marks = (f"{self.directory}/",)
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                words = [*process.cmdline(), *process.environ().values()]
            except psutil.Error:
                continue
            if any(mark in word for mark in marks for word in words):
                found.append(process)
        return found

    def daemons(self) -> list[psutil.Process]:
        """Its sandboxes."""
        return [p for p in self.processes() if "flakes.sandbox" in _words(p)]

    def lose_power(self) -> None:
        """Everything on it is gone at once; its files stay."""
        deadline = time.monotonic() + 15
        while running := self.processes():
            assert time.monotonic() < deadline, running
            for number in (signal.SIGSTOP, signal.SIGKILL):  # what stands still starts nothing new
                for process in running:
                    _send(process, number)
            psutil.wait_procs(running, timeout=2)
        if self._host is not None:
            self._host.wait(10)

    def kill_host(self) -> None:
        """kill -9 of the host process alone: its sandboxes work on."""
        assert self._host is not None
        self._host.kill()
        self._host.wait(10)

    def stop(self) -> None:
        """An orderly end of all of it, or any."""
        if self.is_up() and self._host is not None:
            self._host.send_signal(signal.SIGCONT)
            self._host.terminate()
            try:
                self._host.wait(20)
            except subprocess.TimeoutExpired:
                pass
        self.lose_power()


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        pass
