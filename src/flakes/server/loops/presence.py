"""Presence: this replica's row among the living, and knowing who else lives. Runs on every replica."""

from __future__ import annotations

import structlog

from flakes.server.plane import Plane
from flakes.store import replicas

INTERVAL_S = 3.0
TTL_S = 10.0
"""After this without a renewal a replica counts as dead, and its links with it."""

log = structlog.get_logger()


class Presence:
    """See the module."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def run_once(self) -> float | None:
        """Renew the row and read the others."""
        plane = self._plane
        async with plane.database.connection() as conn:
            others = await replicas.renew(conn, plane.replica_id, TTL_S)
        before, plane.replicas.others = plane.replicas.others, others
        if others != before:
            log.info("replicas.changed", others=sorted(others))
        return None

    async def leave(self) -> None:
        """Take the row away on the way out."""
        async with self._plane.database.connection() as conn:
            await replicas.leave(conn, self._plane.replica_id)
