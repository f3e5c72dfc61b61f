"""The janitor: finishes deletions, and removes what is kept for a while only: answers of idempotency keys,
events of deleted runs, expired codes and sign-ins, empty rate limits.

Deletions are finished under the lock of their run, so any replica may do it, and the one that took the
request does; what is old goes on the leader. Woken by a delete; otherwise it looks once a minute, so that it costs nothing
while nothing happens.
While runs wait for their last tasks to end it looks twice a second.
"""

from __future__ import annotations

import structlog

from flakes.server.loops.leadership import Leadership
from flakes.server.plane import Plane
from flakes.store import codes, device_grants, idempotency, rate_limits, runs, sign_ins

INTERVAL_S = 60.0
WAITING_S = 0.5
DELETED_EVENTS_KEPT_S = 24 * 3600.0
"""How long the events of a deleted run stay for those who follow it."""

log = structlog.get_logger()


class Janitor:
    """See the module."""

    def __init__(self, plane: Plane, leadership: Leadership) -> None:
        self._plane = plane
        self._leadership = leadership

    async def run_once(self) -> float | None:
        """One pass; soon again while anything is left to do."""
        database = self._plane.database
        async with database.transaction() as conn:
            deleted, waiting = await runs.finish_deletes(conn)
        if deleted:
            log.info("janitor.deleted", runs=deleted)
            self._plane.wrote()
            self._plane.garbage.set()
        forgotten = 0
        if self._leadership.term() is not None:
            async with database.connection() as conn:
                forgotten = await idempotency.forget(conn)
                forgotten += await runs.forget_deleted(conn, DELETED_EVENTS_KEPT_S)
                for over in (codes, device_grants, rate_limits, sign_ins):
                    forgotten += await over.forget(conn)
        if waiting or deleted or forgotten:
            return WAITING_S
        return None
