"""Processes that carry an assignment's mark, whoever their parent is now.

The mark is the variable ``FLAKES_ASSIGNMENT_ID`` in a process's environment; it finds what a dead
supervisor left behind. This module only looks and kills; whom, and why, others decide.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Final

from flakes.processes import carrying, is_alive, read

MARK: Final = "FLAKES_ASSIGNMENT_ID"
LOOK_AGAIN_S: Final = 0.05


def start_of(pid: int) -> str | None:
    """What tells this process from later ones of the same pid; None when there is none (or a zombie)."""
    found = read(pid)
    return None if found is None or found.zombie else found.start


def marked(assignment_ids: set[str]) -> list[int]:
    """Living processes whose environment carries the mark of one of the assignments."""
    marks = [f"{MARK}={assignment_id}" for assignment_id in assignment_ids]
    return [pid for pid in carrying(marks) if pid != os.getpid()]


async def kill_marked(assignment_ids: set[str]) -> int:
    """Kill everything with the mark until a look finds nothing; how many kills that took."""
    kills = 0
    while assignment_ids and (pids := await asyncio.to_thread(marked, assignment_ids)):
        for pid in pids:
            kills += kill(pid)
        await asyncio.sleep(LOOK_AGAIN_S)
    return kills


async def gone(pid: int, start: str, patience_s: float) -> bool:
    """Wait until that very process has ended; False when it still lives after `patience_s`."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + patience_s
    while is_alive(pid, start):
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
