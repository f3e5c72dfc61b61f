"""Heartbeats stay in memory; every few seconds those who were heard are written in one statement."""

from __future__ import annotations

from flakes.server.plane import Plane
from flakes.store import links

INTERVAL_S = 5.0


class Heartbeats:
    """See the module. Runs on every replica, for its own connections."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        leases = plane.config.leases
        # Who is heard must be written well before anybody would call it silent.
        self._pace_s = min(INTERVAL_S, leases.suspect_after_s / 4, leases.lost_after_s / 4)

    async def run_once(self) -> float | None:
        """Write who was heard since the last pass; seconds until the next one is due."""
        heard = self._plane.hub.heard_since_last_flush()
        if heard:
            async with self._plane.database.connection() as conn:
                await links.seen(conn, heard)
        if self._plane.leading:
            silence_s = self._plane.config.leases.suspect_after_s
            async with self._plane.database.connection() as conn:
                await links.orphaned(conn, self._plane.replica_id, silence_s)
        return self._pace_s
