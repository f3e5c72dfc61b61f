"""Processes as the system shows them: identity, and what carries an assignment's mark.

A pid alone names nobody: it is used again. An identity is the pid with the start time. The mark is the
variable ``FLAKES_ASSIGNMENT_ID`` in a process's environment; it finds what a dead supervisor left behind.
This module only looks and kills; whom, and why, others decide.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

LINUX: Final = sys.platform == "linux"
MARK: Final = "FLAKES_ASSIGNMENT_ID"
LOOK_AGAIN_S: Final = 0.05


def start_time(pid: int) -> str | None:
    """When the process started, as an opaque text to compare; None when there is none (or a zombie)."""
    if not LINUX:
        found = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return found.stdout.strip() or None
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def marked(assignment_ids: set[str]) -> list[int]:
    """Living processes whose environment carries the mark of one of the assignments."""
    if not LINUX:
        return _marked_by_ps(assignment_ids)
    marks = {f"{MARK}={assignment_id}".encode() for assignment_id in assignment_ids}
    prefix = f"{MARK}=".encode()
    found: list[int] = []
    with os.scandir("/proc") as entries:
        for entry in entries:
            if not entry.name.isdigit():
                continue
            try:
                environ = Path(entry.path, "environ").read_bytes()
            except OSError:
                continue
            at = environ.find(prefix)
            if at >= 0 and environ[at:].split(b"\0", 1)[0] in marks:
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


async def kill_marked(assignment_ids: set[str]) -> int:
    """Kill everything with the mark until a look finds nothing; how many kills that took."""
    kills = 0
    while assignment_ids and (pids := await asyncio.to_thread(marked, assignment_ids)):
        for pid in pids:
            kills += kill(pid)
        await asyncio.sleep(LOOK_AGAIN_S)
    return kills


async def gone(pid: int, started: str, patience_s: float) -> bool:
    """Wait until that very process has ended; False when it still lives after `patience_s`."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + patience_s
    while start_time(pid) == started:
        if loop.time() > give_up:
            return False
        await asyncio.sleep(LOOK_AGAIN_S)
    return True


def kill(pid: int) -> bool:
    """SIGKILL; False when there was nobody, or one that may not be killed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _marked_by_ps(assignment_ids: set[str]) -> list[int]:
    lines = subprocess.run(
        ["ps", "-Eww", "-axo", "pid=,command="], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    marks = [f"{MARK}={assignment_id}" for assignment_id in assignment_ids]
    pids = (int(line.split(None, 1)[0]) for line in lines if any(mark in line for mark in marks))
    return [pid for pid in pids if pid != os.getpid()]
