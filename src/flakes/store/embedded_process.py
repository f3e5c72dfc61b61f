"""The running server as the operating system shows it: its pid file, its socket, its processes.

PostgreSQL writes `postmaster.pid` into its data directory and keeps it while it runs; a killed server leaves it behind,
and its pid may since belong to another program. So a pid is believed only where the process is a PostgreSQL in that
data directory, and a server is believed to work only when it answers on its socket.

This module refuses to decide: it reports and signals, and `embedded` decides. Its one invariant is that nothing but a
PostgreSQL process of the given data directory is ever signalled.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PID_FILE = "postmaster.pid"
PORT = 5432  # only a part of the socket's name: the server never listens on the network
_PROTOCOL_3_0 = 196608
_ANSWER_TIMEOUT_S = 1.0


class Answer(enum.Enum):
    """What the socket says."""

    READY = "ready"
    BUSY = "busy"  # starting, recovering or shutting down
    SILENT = "silent"  # it takes connections and does not answer: stopped or starved
    ABSENT = "absent"  # nobody listens


@dataclass(frozen=True)
class PidFile:
    """The lines of `postmaster.pid` that matter. `socket_dir` is None while the server has none yet.

    `cluster` is the data directory it was written for, which is another one where the directory was copied.
    """

    pid: int
    cluster: Path
    port: int
    socket_dir: Path | None
    state: str  # "starting", "ready", "stopping", or "" while it is being written


def read_pid_file(cluster: Path) -> PidFile | None:
    """The pid file of this data directory, or None where there is none or it is empty."""
    try:
        lines = (cluster / PID_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    lines += [""] * (8 - len(lines))
    try:
        pid = int(lines[0])
        port = int(lines[3] or PORT)
    except ValueError:
        return None
    socket_dir = Path(lines[4]) if lines[4].startswith("/") else None
    return PidFile(
        pid=pid, cluster=Path(lines[1]), port=port, socket_dir=socket_dir, state=lines[7].strip()
    )


def forget_pid(cluster: Path, pid: int) -> None:
    """Make PostgreSQL treat its pid file as left over, when `pid` in it now belongs to another program.

    The file is not removed: it also names the shared memory, by which PostgreSQL sees surviving children. Only the pid
    is replaced, by our own: PostgreSQL holds the pid of its parent to be stale.
    """
    path = cluster / PID_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "r+", encoding="utf-8", errors="surrogateescape") as file:
        first, _, rest = file.read().partition("\n")
        if first.strip() != str(pid):
            return
        file.seek(0)
        file.write(f"{os.getpid()}\n{rest}")
        file.truncate()


def ask(socket_dir: Path, port: int, user: str, database: str) -> Answer:
    """Knock at the server's socket the way a client does, up to the point where it would ask for a password."""
    parameters = f"user\0{user}\0database\0{database}\0\0".encode()
    packet = struct.pack("!II", len(parameters) + 8, _PROTOCOL_3_0) + parameters
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_ANSWER_TIMEOUT_S)
        try:
            client.connect(str(socket_dir / f".s.PGSQL.{port}"))
        except TimeoutError:
            return Answer.SILENT
        except OSError:
            return Answer.ABSENT
        try:
            client.sendall(packet)
            # All of it: closing on unread bytes would look like a broken client in the server's log.
            kind = client.recv(1024)[:1]
        except TimeoutError:
            return Answer.SILENT
        except OSError:
            return Answer.BUSY
    if kind == b"R":
        return Answer.READY
    return (
        Answer.BUSY
    )  # an error (starting up, shutting down, too many clients) or a closed connection


def is_postmaster(pid: int, cluster: Path) -> bool:
    """Is this pid a live PostgreSQL server of this data directory?"""
    return _is_postgres(pid, cluster) and not _title(pid).startswith("postgres: ")


def orphans(cluster: Path) -> list[int]:
    """Pids of server children in this data directory (Linux only; elsewhere the shared memory tells PostgreSQL).

    Asked when the server itself is known to be dead; they end by themselves, mostly within milliseconds.
    """
    if not sys.platform.startswith("linux"):
        return []
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [p for p in pids if _is_postgres(p, cluster) and _title(p).startswith("postgres: ")]


def send(pid: int, cluster: Path, number: signal.Signals) -> bool:
    """Signal a process of this data directory's server. False where it is gone or was never one."""
    if not _is_postgres(pid, cluster):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def _is_postgres(pid: int, cluster: Path) -> bool:
    if pid <= 1:
        return False
    if not sys.platform.startswith("linux"):
        return _is_postgres_by_ps(pid, cluster)
    try:
        # A server works inside its data directory. A zombie has neither directory nor program: it is dead.
        here = Path(f"/proc/{pid}/cwd").stat()
        program = Path(f"/proc/{pid}/exe").readlink().name.removesuffix(" (deleted)")
        home = cluster.stat()
    except OSError:
        return False
    same = (here.st_dev, here.st_ino) == (home.st_dev, home.st_ino)
    return same and program in ("postgres", "postmaster")


def _title(pid: int) -> str:
    if not sys.platform.startswith("linux"):
        return _ps(pid)
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def _is_postgres_by_ps(pid: int, cluster: Path) -> bool:
    # We start servers with their data directory as an argument, so it stands in the command line.
    title = _ps(pid)
    return "postgres" in title and str(cluster) in title


def _ps(pid: int) -> str:
    done = subprocess.run(
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
