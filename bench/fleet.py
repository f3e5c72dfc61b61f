"""Processes that stand for sandboxes: many protocol clients in one process, or one real daemon."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.plane import Plane


class Fleet:
    """A process of sandbox clients (see `bench.clients`). `mode` is `run`, or `hold` to finish on demand."""

    def __init__(self, server: Plane, sandboxes: int, slots: int, mode: str = "run") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.clients", server.url, str(slots), mode],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        for sandbox_id, token in server.sandboxes(sandboxes):
            self.stdin.write(f"{sandbox_id} {token}\n")
        self.stdin.write("\n")
        self.stdin.flush()
        assert self.stdout.readline() == "ready\n"

    def reports(self) -> Iterator[dict[str, Any]]:
        """Reports of the clients as they come."""
        while line := self.stdout.readline():
            yield msgspec.json.decode(line)

    def release(self) -> None:
        """Finish everything that is held, at once."""
        self.stdin.write("release\n")
        self.stdin.flush()

    def close(self) -> None:
        """End the process and its connections."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def daemon(
    server: Plane, slots: int, adapters: str = '"command"', more: str = ""
) -> Iterator[Path]:
    """One real `flakes sandbox` daemon, connected, with `more` lines in its configuration; yields its
    directory."""
    (sandbox_id, token), *_ = server.sandboxes(1)
    directory = Path(tempfile.mkdtemp(prefix="flakes-bench-sandbox-"))
    credential = directory / "credential"
    credential.touch(0o600)
    credential.write_text(token)
    config = directory / "sandbox.toml"
    config.write_text(
        f'controlPlaneUrl = "{server.url}"\nsandboxId = "{sandbox_id}"\n'
        f'credentialFile = "{credential}"\nstateDir = "{directory}/state"\n'
        f"adapters = [{adapters}]\nmaxConcurrency = {slots}\n{more}"
    )
    log = (directory / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "flakes.sandbox", "--config", str(config)],
        stdout=log, stderr=log, env=os.environ | {"FLAKES_BENCH_DIR": str(directory)},
    )  # fmt: skip
    try:
        yield directory
    finally:
        process.terminate()
        process.wait(15)
