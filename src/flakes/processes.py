"""Processes of this machine: who they are, whose children they are, and when they end.

A pid alone names nobody, because pids are used again. A process is named by its pid and the moment it
started, here called its *start*: an opaque string that no other process with that pid ever has, also
not after a reboot. No clock is involved.

Linux is read from /proc. Elsewhere `ps` answers the same questions, less one: working directories of others
stay unknown.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import os
import signal
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

POLL_S = 0.1
"""How often an exit is looked for where the kernel has no pidfd."""

_PROC = Path("/proc")
# linux/pidfd.h: _IOWR(0xFF, 11, struct pidfd_info), whose first version ends with the exit status.
_PIDFD_INFO_SIZE_BYTES = 64
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_GET_INFO = 3 << 30 | _PIDFD_INFO_SIZE_BYTES << 16 | 0xFF << 8 | 11


@dataclass(frozen=True, slots=True)
class Process:
    """One row of the process table."""

    pid: int
    parent: int
    group: int
    session: int
    """0 where it is not known."""
    has_terminal: bool
    start: str
    state: str = field(compare=False)
    """One letter, as ps(1) shows it."""

    @property
    def zombie(self) -> bool:
        """Dead, and not yet taken note of by its parent."""
        return self.state in "ZX"

    @property
    def frozen(self) -> bool:
        """Stopped by a signal: it starts nothing."""
        return self.state in "Tt"


def read(pid: int) -> Process | None:
    """The process of this pid, also when it is a zombie; None when there is none."""
    if not _has_proc():
        return next(iter(_ps(pid)), None)
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    return _from_stat(pid, stat)


def table() -> dict[int, Process]:
    """Every process of this machine by pid, zombies left out."""
    rows = map(read, pids()) if _has_proc() else iter(_ps())
    return {row.pid: row for row in rows if row and not row.zombie}


def pids() -> list[int]:
    """Who is there, zombies too."""
    if _has_proc():
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208
    return [row.pid for row in _ps()]


def command_lines() -> Iterator[tuple[int, list[str]]]:
    """Pid and command line of every process that has one. `ps` tears arguments at their spaces."""
    if not _has_proc():
        for line in _ask_ps("-A", "-ww", "-o", "pid=,command="):
            pid, _, command = line.strip().partition(" ")
            if command:
                yield int(pid), command.split()
        return
    for pid in pids():
        words = b"\0".join(arguments(pid)).rstrip(b"\0")
        if words:
            yield pid, os.fsdecode(words).split("\0")


def carrying(pairs: Iterable[str]) -> list[int]:
    """The pids of the processes that were started with one of these `NAME=value` in their environment."""
    wanted = [pair.encode() for pair in pairs]
    if _has_proc():
        return [pid for pid in pids() if _carries(environment(pid), wanted)]
    lines = _ask_ps("-E", "-A", "-ww", "-o", "pid=,command=")
    return [int(line.split(None, 1)[0]) for line in lines if _carries(line.encode().split(), wanted)]


def is_alive(pid: int, start: str) -> bool:
    """Whether that very process still runs (a zombie does not)."""
    found = read(pid)
    return found is not None and found.start == start and not found.zombie


def environment(pid: int) -> list[bytes]:
    """`NAME=value` of a process as it was started; empty when we may not look."""
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def arguments(pid: int) -> list[bytes]:
    """The command line; empty when we may not look."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def directory(pid: int) -> str:
    """The working directory, or an empty string when we may not look."""
    try:
        return os.readlink(_PROC / str(pid) / "cwd")  # noqa: PTH115 (a deleted one must not resolve)
    except OSError:
        return ""


def descendants(processes: dict[int, Process], roots: Iterable[int]) -> set[int]:
    """The pids of `roots` that exist, and of everything below them in that table."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    left = [pid for pid in roots if pid in processes]
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += children.get(pid, [])
    return found


def ancestors(processes: dict[int, Process], pid: int) -> set[int]:
    """`pid` and everything above it."""
    found: set[int] = set()
    while pid in processes and pid not in found:
        found.add(pid)
        pid = processes[pid].parent
    return found


def send(pid: int, start: str, number: signal.Signals) -> None:
    """Signal that very process. That it is gone, or not ours to signal, is not an error."""
    if is_alive(pid, start):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass


async def ended(pid: int, start: str) -> int | None:
    """Return as soon as that process has ended; a zombie counts as ended. Cancellable.

    The answer is the exit code (negative: a signal) where the kernel tells others than the parent,
    else None."""
    descriptor = _pidfd(pid)
    if descriptor is None:
        while is_alive(pid, start):  # noqa: ASYNC110 (nothing would set an event)
            await asyncio.sleep(POLL_S)
        return None
    try:
        # Only now is it certain that the descriptor is of the process we mean.
        if not is_alive(pid, start):
            return None
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(descriptor, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(descriptor)
        return _exit_code(descriptor, pid)
    finally:
        os.close(descriptor)


def _pidfd(pid: int) -> int | None:
    opener = getattr(os, "pidfd_open", None)
    if opener is None:
        return None
    try:
        return opener(pid)
    except OSError:
        return None


def _exit_code(descriptor: int, pid: int) -> int | None:
    """The exit code of a process that has just ended, of whoever's child it was: the last field of a
    zombie's stat line, or, once it is reaped, from its pidfd (Linux 6.15)."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
        fields = stat[stat.rfind(b")") + 2 :].split()
        if fields[0] == b"Z" and len(fields) >= 50:
            return os.waitstatus_to_exitcode(int(fields[49]))
    except (OSError, ValueError):
        pass
    answer = bytearray(_PIDFD_INFO_SIZE_BYTES)
    struct.pack_into("Q", answer, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(descriptor, _PIDFD_GET_INFO, answer, True)
    except OSError:
        return None
    (known,) = struct.unpack_from("Q", answer, 0)
    (status,) = struct.unpack_from("i", answer, _PIDFD_INFO_SIZE_BYTES - 4)
    return os.waitstatus_to_exitcode(status) if known & _PIDFD_INFO_EXIT else None


@functools.cache
def _has_proc() -> bool:
    return (_PROC / "self" / "stat").exists()


@functools.cache
def _boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "boot"


def _from_stat(pid: int, stat: bytes) -> Process | None:
    """proc_pid_stat(5): the name in parentheses may hold anything, so the fields start after the
    last one: state, ppid, pgrp, session, tty_nr, ... and starttime as the twentieth."""
    fields = stat[stat.rfind(b")") + 2 :].split()
    if len(fields) < 20:
        return None
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        has_terminal=int(fields[4]) != 0,
        start=f"{_boot_id()}:{int(fields[19])}",
        state=fields[0].decode(),
    )


def _ps(pid: int | None = None) -> list[Process]:
    """The same from ps(1). `lstart` has a resolution of a second; so has its protection."""
    which = ["-p", str(pid)] if pid is not None else ["-A"]
    columns = "pid=,ppid=,pgid=,stat=,tty=,lstart="
    rows: list[Process] = []
    for line in _ask_ps(*which, "-ww", "-o", columns):
        fields = line.split(None, 5)
        if len(fields) == 6:
            rows.append(
                Process(
                    pid=int(fields[0]),
                    parent=int(fields[1]),
                    group=int(fields[2]),
                    session=0,
                    has_terminal=not fields[4].startswith("?"),
                    start=fields[5].strip(),
                    state=fields[3][0],
                )
            )
    return rows


def _carries(environment: list[bytes], wanted: list[bytes]) -> bool:
    return any(pair in environment for pair in wanted)


def _ask_ps(*arguments: str) -> list[str]:
    answer = subprocess.run(
        ["ps", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=os.environ | {"LC_ALL": "C", "TZ": "UTC"},
        check=False,
    )
    return answer.stdout.splitlines()
