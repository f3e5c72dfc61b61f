"""Timers: waits for a time are settled when it has come, and others time out. Runs on the leader."""

from __future__ import annotations

from flakes.server.loops.leadership import Leadership
from flakes.server.plane import Plane
from flakes.store import waits

INTERVAL_S = 1.0
PAGE = 500


class Timers:
    """See the module."""

    def __init__(self, plane: Plane, leadership: Leadership) -> None:
        self._plane = plane
        self._leadership = leadership

    async def run_once(self) -> float | None:
        """Settle what is due; seconds until the next one is."""
        if self._leadership.term() is None:
            return None
        async with self._plane.database.connection() as conn:
            due_s = await waits.next_due_s(conn)
        if due_s is None or due_s > 0:
            return due_s
        async with self._plane.database.transaction() as conn:
            fired, ledger = await waits.fire(conn, PAGE)
        if ledger is not None:
            self._plane.joined(ledger)
        return 0.0 if fired == PAGE else None
