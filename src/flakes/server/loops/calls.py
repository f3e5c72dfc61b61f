"""Calls: one notification for everything this replica had to tell the others since the last. Runs on every
replica, over a transaction of its own, so that no other commit waits for the lock that a notification takes.
"""

from __future__ import annotations

import asyncio

from flakes.server.plane import Plane
from flakes.store import replicas

INTERVAL_S = 60.0
PAUSE_S = 0.01
"""Between two notifications: at most a hundred a second, whatever happens."""


class Calls:
    """See the module. One that fails is lost, and costs the others the time until they look by themselves."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def run_once(self) -> float | None:
        """Tell what has gathered."""
        plane = self._plane
        peers, news = plane.replicas.take()
        if peers or news:
            async with plane.database.connection() as conn:
                await replicas.notify(conn, plane.replica_id, peers, news)
            await asyncio.sleep(PAUSE_S)
        return None
