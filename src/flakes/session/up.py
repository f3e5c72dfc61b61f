"""Starting a local session, or finding it started: safe to call at any time, from any number of places.

The one who holds the command lock starts a supervisor in a session of its own and listens on a pipe
until it is ready or has failed; everybody else waits for the lock and then finds the session running.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from flakes.session import processes, record
from flakes.session.layout import LOG_NAMES, Layout
from flakes.wire.errors import ApiError

START_TIMEOUT_S: Final = 180.0
LOCK_TIMEOUT_S: Final = 200.0
TAIL_LINES: Final = 15


@dataclass(frozen=True, slots=True)
class Up:
    """`outcome` tells whether this call started the session or found it."""

    outcome: Literal["started", "running"]
    record: record.Record
    took_s: float


def up(layout: Layout, progress: Callable[[str], None] = lambda sentence: None) -> Up:
    """The session, running. `session_failed` carries the tail of the responsible log."""
    began = time.monotonic()
    found = record.running(layout)
    if found is not None:
        return Up("running", found, time.monotonic() - began)
    layout.make()
    with command_lock(layout):
        found = record.running(layout)
        if found is not None:
            return Up("running", found, time.monotonic() - began)
        _end_half_started(layout)
        sizes = _log_sizes(layout)
        _start(layout, progress, sizes)
        found = record.running(layout)
    if found is None:
        raise _failure(layout, sizes, "supervisor", "the session ended right after its start")
    return Up("started", found, time.monotonic() - began)


@contextlib.contextmanager
def command_lock(layout: Layout) -> Iterator[None]:
    """One `up` or `down` at a time; the kernel gives the lock back when its holder dies."""
    descriptor = os.open(layout.command_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ApiError(
                        "session_failed",
                        "another `flakes up` or `flakes down` has been at work for minutes",
                        "see `flakes doctor`, and end that command if it hangs",
                    ) from None
                time.sleep(processes.POLL_S)
        yield
    finally:
        os.close(descriptor)


def _end_half_started(layout: Layout) -> None:
    """A supervisor that is alive but not ready, while nobody holds the lock, was abandoned by whoever
    started it."""
    found = processes.of_session(layout.root)
    processes.stop([one for one in found if one.role == "supervisor"])


def _start(layout: Layout, progress: Callable[[str], None], sizes: dict[str, int]) -> None:
    reader, writer = os.pipe()
    log = layout.log("supervisor")
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            [
                sys.executable, "-P", "-m", "flakes.session", "supervise",
                "--session", layout.name, "--root", str(layout.root), "--report-fd", str(writer),
            ],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            pass_fds=(writer,),
            start_new_session=True,
            # Not the user's directory: it would be busy for as long as the session lives.
            cwd=layout.root,
            env=os.environ | {"FLAKES_DATA_DIR": str(layout.data_dir)},
        )  # fmt: skip
    finally:
        os.close(descriptor)
        os.close(writer)
    try:
        _listen(layout, reader, process, progress, sizes)
    except KeyboardInterrupt:
        # Half a session is of no use to anybody.
        process.terminate()
        process.wait(processes.STOP_GRACE_S["supervisor"])
        raise
    finally:
        os.close(reader)
    # The supervisor outlives this process, which must not complain that nobody waited for it.
    process.returncode = 0


def _listen(
    layout: Layout,
    reader: int,
    process: subprocess.Popen[bytes],
    progress: Callable[[str], None],
    sizes: dict[str, int],
) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    buffer = b""
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([reader], [], [], left_s)[0]:
            process.terminate()
            process.wait(processes.STOP_GRACE_S["supervisor"])
            text = f"the session did not start in {START_TIMEOUT_S:g} s"
            raise _failure(layout, sizes, "supervisor", text)
        chunk = os.read(reader, 65_536)
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "ready" in message:
                return
            if "failed" in message:
                # It takes down what it had started before it exits.
                process.wait(processes.STOP_GRACE_S["supervisor"])
                failed = message["failed"]
                raise _failure(layout, sizes, failed["log"], failed["message"])
            progress(message["progress"])
        if not chunk:
            process.wait(processes.STOP_GRACE_S["supervisor"])
            text = "the supervisor ended while it started the session"
            raise _failure(layout, sizes, "supervisor", text)


def _log_sizes(layout: Layout) -> dict[str, int]:
    """Where the logs end before a start: what stands before that tells nothing about it."""
    paths = {name: layout.log(name) for name in LOG_NAMES}
    return {name: path.stat().st_size for name, path in paths.items() if path.exists()}


def _failure(layout: Layout, sizes: dict[str, int], log: str, message: str) -> ApiError:
    assert log in LOG_NAMES, log
    path = layout.log(log)
    lines = log_tail(layout, log, since_bytes=sizes.get(log, 0))
    shown = "\n".join(f"  {line}" for line in lines) or "  (it wrote nothing)"
    return ApiError(
        "session_failed",
        f"{message}; the end of {path}:\n{shown}",
        "mend what the log says and run `flakes up` again; `flakes doctor` checks the surroundings",
        log=str(path),
    )


def log_tail(
    layout: Layout, log: str, lines: int = TAIL_LINES, *, since_bytes: int = 0
) -> list[str]:
    """The last lines of one of the session's logs, of what stands after `since_bytes` in it."""
    try:
        with layout.log(log).open("rb") as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            # A log that is shorter than it was has been set aside and begun anew.
            file.seek(max(since_bytes if since_bytes <= size else 0, size - 65_536))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]
