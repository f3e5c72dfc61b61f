"""Revocations: ends the streams of tokens that were revoked elsewhere or have expired. Runs on every replica.

It asks for what ended lately, not about every stream, so a thousand streams cost what one does; a minute of
overlap covers transactions that were slow to commit. While nothing streams it asks nothing.
"""

from __future__ import annotations

import time

import structlog

from flakes.server.plane import Plane
from flakes.store import sign_ins

INTERVAL_S = 2.0
OVERLAP_S = 60.0

log = structlog.get_logger()


class Revocations:
    """See the module."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._looked_s = time.monotonic()

    async def run_once(self) -> float | None:
        """One look at what has ended since the last."""
        started_s = time.monotonic()
        if self._plane.live:
            async with self._plane.database.connection() as conn:
                ended = await sign_ins.ended(conn, started_s - self._looked_s + OVERLAP_S)
            count = self._plane.live.end(ended)
            if count:
                log.info("revocations.ended", streams=count)
        self._looked_s = started_s
        return None
