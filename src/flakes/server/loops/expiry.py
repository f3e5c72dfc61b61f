"""Expiry: permission requests that nobody answered in time get their default. Runs on the leader."""

from __future__ import annotations

from flakes.server.loops.leadership import Leadership
from flakes.server.plane import Plane
from flakes.store import permissions

INTERVAL_S = 1.0
PAGE = 500


class Expiry:
    """See the module."""

    def __init__(self, plane: Plane, leadership: Leadership) -> None:
        self._plane = plane
        self._leadership = leadership

    async def run_once(self) -> float | None:
        """Expire what is due; seconds until the next one is."""
        if self._leadership.term() is None:
            return None
        async with self._plane.database.connection() as conn:
            due_s = await permissions.next_due_s(conn)
        if due_s is None or due_s > 0:
            return due_s
        async with self._plane.database.transaction() as conn:
            expired = await permissions.expire(conn, PAGE)
        self._plane.wrote()
        for permission_id in expired:
            self._plane.answered(permission_id)
        return 0.0 if len(expired) == PAGE else None
