"""Timers: waits for a time are settled when it has come, others time out, and live tasks that nobody prompts are
asked to end. Runs on the leader."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from flakes.server.loops.leadership import Leadership
from flakes.server.plane import Plane
from flakes.store import idling, waits
from flakes.store.database import Connection
from flakes.store.ledger import Ledger

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
            due_s = [await look(conn) for look in (waits.next_due_s, idling.next_due_s)]
        soonest_s = min((each for each in due_s if each is not None), default=None)
        if soonest_s is None or soonest_s > 0:
            return soonest_s
        more = [await self._do(act) for act in (waits.fire, idling.expire)]
        return 0.0 if any(more) else None

    async def _do(self, act: Callable[[Connection, int], Awaitable[tuple[int, Ledger | None]]]) -> bool:
        """Whether there may be more of it."""
        async with self._plane.database.transaction() as conn:
            done, ledger = await act(conn, PAGE)
        if ledger is not None:
            self._plane.joined(ledger, idling.REASON)
        return done == PAGE
