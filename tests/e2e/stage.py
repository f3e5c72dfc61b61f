"""A local session of its own with real processes, looked at and hurt from outside.

`Stage` owns a data directory under /tmp that the database's user can reach, runs the `flakes` command
against it, and knows the session's processes by role. It holds no rule of the product: what it tells
comes from the API, the process table, or the database.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil
import psycopg

from flakes.client import SyncClient
from flakes.client.transport import Address
from flakes.session import processes, record
from flakes.session.layout import Layout
from flakes.session.processes import Identity
from flakes.store.embedded import EmbeddedPostgres
from flakes.wire.runs import Run

T = TypeVar("T")

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = Path(sys.executable)
FLAKES = (str(PYTHON), "-P", "-c", "from flakes.cli.main import main; main()")
_OWN = ("FLAKES_SERVER", "FLAKES_TOKEN", "FLAKES_SESSION", "FORCE_COLOR", "NO_COLOR")


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)

    def ok(self) -> Ran:
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        return self


def until(
    condition: Callable[[], T | None], timeout_s: float = 30.0, what: str = "the condition"
) -> T:
    """The first true value of `condition`, asked fifty times a second."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {timeout_s:g} s")


def say(sentence: str) -> None:
    """Into the test's captured output: shown with a failure, or with `pytest -s`."""
    sys.stdout.write(f"{sentence}\n")


def seeded() -> tuple[int, random.Random]:
    """A generator whose seed is printed, or given again in FLAKES_TEST_SEED."""
    seed = int(os.environ.get("FLAKES_TEST_SEED") or random.randrange(1_000_000))
    say(f"FLAKES_TEST_SEED={seed}")
    return seed, random.Random(seed)


class Stage:
    """One session in a directory of its own. Nothing runs until `up`."""

    def __init__(self, parent: Path) -> None:
        self.command = FLAKES
        self.extra_env: dict[str, str] = {}
        self.data_dir = parent / "data"
        self.layout = Layout(self.data_dir, "default")
        self.home = parent / "home"
        self.home.mkdir()
        self.scratch = parent / "scratch"
        self.scratch.mkdir()

    @property
    def env(self) -> dict[str, str]:
        """The environment of this session's user: nothing of the tester's own settings."""
        clean = {name: value for name, value in os.environ.items() if name not in _OWN}
        path = f"{PYTHON.parent}{os.pathsep}{clean.get('PATH', os.defpath)}"
        return clean | {
            "FLAKES_DATA_DIR": str(self.data_dir),
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "PATH": path,
            **self.extra_env,
        }

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """The `flakes` command, running. Its standard input is empty."""
        given: dict[str, Any] = {
            "env": self.env, "cwd": self.scratch, "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
        }  # fmt: skip
        return subprocess.Popen([*self.command, *argv], **(given | options))

    def flakes(self, *argv: str, timeout_s: float = 60.0, **options: Any) -> Ran:
        """The `flakes` command, run to its end."""
        process = self.start(*argv, **options)
        return ended(process, timeout_s)

    def up(self) -> record.Record:
        self.flakes("up", timeout_s=120).ok()
        return self.record()

    def down(self) -> None:
        self.flakes("down", timeout_s=120).ok()

    def record(self) -> record.Record:
        found = record.running(self.layout)
        assert found is not None, "the session does not run"
        return found

    def _address(self) -> Address | None:
        found = record.running(self.layout)
        if found is None:
            return None
        return Address(found.server, self.layout.owner_credential.read_text().strip())

    def client(self) -> SyncClient:
        """The API as the session's owner; follows the session when it moves."""
        address = self._address()
        assert address is not None, "the session does not run"
        return SyncClient(address.server, address.token, locate=self._address)

    # ---- processes

    def identities(self, role: str) -> list[Identity]:
        return [one.identity for one in processes.of_session(self.layout.root) if one.role == role]

    def kill(self, role: str) -> Identity:
        """kill -9 of the one process of that role (waited for, should it just be starting)."""
        (victim,) = until(
            lambda: found if len(found := self.identities(role)) == 1 else None, 30, f"one {role}"
        )
        os.kill(victim.pid, signal.SIGKILL)
        return victim

    def of_session(self) -> list[psutil.Process]:
        """Every process with this session's directory among its arguments or in its environment."""
        return running_with(str(self.data_dir))

    def logs(self) -> str:
        """The ends of the session's logs, for a failure's message."""
        parts: list[str] = []
        for path in sorted(self.layout.root.rglob("*.log")):
            with contextlib.suppress(OSError):
                parts.append(f"--- {path}\n{path.read_text(errors='replace')[-4_000:]}")
        return "\n".join(parts)

    # ---- runs

    def wait(self, run: str, timeout_s: float = 60.0) -> Run:
        """The run once it is complete, however often the server goes away meanwhile."""
        with self.client() as client:
            return client.wait_run(run, timeout_s=timeout_s)

    def submit(self, key: str, tasks: list[dict[str, Any]]) -> Run:
        """A closed run of these tasks (definitions as in the API, adapter `command` filled in)."""
        definitions = [{"title": task["taskKey"], "adapter": "command", **task} for task in tasks]
        body = {"name": key, "projectKey": "e2e", "tasks": definitions, "close": True}
        with self.client() as client:
            client.ensure_project("e2e")
            return client.post_graph(key, body).run

    @contextlib.contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        """The session's own database, which must run."""
        dsn = EmbeddedPostgres(self.layout.postgresql).start().dsn
        with psycopg.connect(dsn, autocommit=True) as conn:
            yield conn


def ended(process: subprocess.Popen[str], timeout_s: float = 60.0) -> Ran:
    """Wait for a command; one that does not end is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{process.args} did not end\n{out}\n{err}") from None
    return Ran(process.returncode, out, err)


def running_with(text: str) -> list[psutil.Process]:
    """Every process (zombies apart) that has `text` in its arguments or its environment."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if any(text in word for word in process.cmdline()) or any(
                text in value for value in process.environ().values()
            ):
                found.append(process)
    return found


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    """A stage, and at the end nothing of it: neither process nor file."""
    # Not pytest's own directory: nobody but its owner can pass that, and the database is not its owner.
    parent = Path(tempfile.mkdtemp(prefix="flakes-e2e-", dir="/tmp"))
    parent.chmod(0o711)
    stage = Stage(parent)
    try:
        yield stage
    finally:
        try:
            stage.flakes("down", timeout_s=120)
            left = stage.of_session()
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            assert not left, f"left after `flakes down`: {left}"
        finally:
            shutil.rmtree(parent, ignore_errors=True)
