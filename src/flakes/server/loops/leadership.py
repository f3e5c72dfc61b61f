"""Holding, or waiting for, the lease under which the singleton loops run (see `store.leader`)."""

from __future__ import annotations

import time

import structlog

from flakes.server.plane import Plane
from flakes.store import leader

TTL_S = 6.0
RENEW_S = 1.5
TRUST_S = 4.5
"""For how long after the start of a successful renewal this process believes in itself."""

log = structlog.get_logger()


class Leadership:
    """The current term, if any. `term()` is what loops ask before every pass."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._term: leader.Term | None = None
        self._trusted_until = 0.0

    def term(self) -> leader.Term | None:
        """The held term, or None; never later than the database would take it away."""
        return self._term if time.monotonic() < self._trusted_until else None

    async def run_once(self) -> float | None:
        """Take or renew the lease."""
        started = time.monotonic()
        async with self._plane.database.connection() as conn:
            term = await leader.elect(conn, "loops", self._plane.replica_id, TTL_S)
        if (term is None) != (self._term is None):
            log.info("leader.changed", leading=term is not None)
            self._plane.schedule.set()  # what the predecessor did not get to
        self._term = term
        self._plane.leading = term is not None
        if term is not None:
            self._trusted_until = started + TRUST_S
        return None

    async def resign(self) -> None:
        """Give the lease up on the way out."""
        if self._term is not None:
            self._trusted_until = 0.0
            async with self._plane.database.connection() as conn:
                await leader.resign(conn, "loops", self._plane.replica_id)
