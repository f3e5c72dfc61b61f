"""Following the event log to wake the event streams that have news; idle while nobody listens."""

from __future__ import annotations

from flakes.server.plane import Plane
from flakes.store import events

INTERVAL_S = 1.0
"""How late news of another replica may be."""
IDLE_S = 30.0
PAGE = 2_000
RECHECK_S = 0.02
RECHECK_S_MAX = 0.25
RECHECKS = 16
"""An event stays unreadable while an older transaction is open: look again soon after a wake-up, then less
often, for a few seconds."""


class Tail:
    """See the module. Each stream reads its own events; this only says that there are some."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._cursor: events.Cursor | None = None
        self._rechecks = 0
        self._woken = 0

    async def run_once(self) -> float | None:
        """Wake whoever has news since the last pass."""
        plane = self._plane
        if not plane.subscriptions and not plane.log_readers:
            self._cursor = None
            return IDLE_S
        found = plane.changed.count != self._woken
        self._woken = plane.changed.count
        async with plane.database.connection() as conn:
            if self._cursor is None:
                self._cursor = await events.horizon(conn)
                for owner_id, run_id in plane.subscriptions.scopes():
                    plane.subscriptions.publish(owner_id, run_id)
                plane.log_readers.publish_all()
            more = True
            while more:
                news = await events.tail(conn, self._cursor, PAGE)
                self._cursor, more = news.cursor, news.more
                found = found or bool(news.scopes)
                for owner_id, run_id in news.scopes:
                    plane.subscriptions.publish(owner_id, run_id)
                plane.log_readers.publish(news.task_ids)
        # Woken for an event that is not readable yet: somebody else's transaction is still open.
        self._rechecks = 0 if found else self._rechecks + 1
        if self._rechecks >= RECHECKS:
            return INTERVAL_S
        return min(RECHECK_S_MAX, RECHECK_S * 2**self._rechecks)
