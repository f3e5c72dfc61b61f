"""Presence: this replica's row among the living, and knowing who else lives. Runs on every replica.

One that could not renew in time (the database was away, the process stood still) was dead to the others,
who may have given its links up: it takes those that are still its own back.
"""

from __future__ import annotations

import time

import structlog

from flakes.server.plane import Plane
from flakes.store import links, replicas

INTERVAL_S = 3.0
TTL_S = 10.0
"""After this without a renewal a replica counts as dead, and its links with it."""

log = structlog.get_logger()


class Presence:
    """See the module."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._renewed_s = time.monotonic()

    async def run_once(self) -> float | None:
        """Renew the row and read the others."""
        plane = self._plane
        began_s = time.monotonic()
        async with plane.database.connection() as conn:
            others = await replicas.renew(conn, plane.replica_id, TTL_S)
            if time.monotonic() - self._renewed_s > TTL_S:
                await links.restore(conn, plane.hub.connections())
        self._renewed_s = began_s
        before, plane.replicas.others = plane.replicas.others, others
        if others != before:
            log.info("replicas.changed", others=sorted(others))
        return None

    async def leave(self) -> None:
        """Take the row away on the way out."""
        async with self._plane.database.connection() as conn:
            await replicas.leave(conn, self._plane.replica_id)
