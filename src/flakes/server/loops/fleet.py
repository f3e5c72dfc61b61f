"""The fleet as this replica's connections see it. Runs on every replica, for its own peers.

Whoever writes something for a peer tells it at once when the peer is connected there; this loop is for
what was written elsewhere, and for what a peer was told while it was not listening. It also hangs up on
those whose credential is not good any more. Its cost is that of what changed lately, not of the peers.
"""

from __future__ import annotations

import structlog

from flakes.server.plane import Plane
from flakes.server.streams.hosts import push_bindings, push_drains, push_leases
from flakes.store import accounts, bindings, leases, sandboxes

INTERVAL_S = 1.0
PENDING_EVERY = 5
"""Bindings that a host has not answered are sent again on every fifth pass."""
REVOKED_S = 60.0
"""How far back ended credentials are looked for."""

log = structlog.get_logger()


class Fleet:
    """See the module."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._pass = 0
        self._drained: set[tuple[str, str]] = set()
        """Sandboxes that were told, and on which connection."""

    async def run_once(self) -> float | None:
        """One look at everything that this replica's peers should know."""
        plane = self._plane
        if not plane.hub.hosts and not plane.hub.sandboxes:
            return None
        self._pass += 1
        async with plane.database.connection() as conn:
            ended = await accounts.ended_within(conn, REVOKED_S)
            unsent = await leases.hosts_with_unsent(conn)
            draining = await sandboxes.draining(conn)
            pending: set[str] = set()
            if self._pass % PENDING_EVERY == 0:
                pending = await bindings.hosts_with_pending(conn)
        closed = plane.hub.close_those_of(ended) if ended else []
        if closed:
            log.info("stream.credential_ended", peers=closed[:20])
        for host_id in unsent & plane.hub.hosts.keys():
            await push_leases(plane, host_id)
        connected = {s: plane.hub.sandboxes[s].connection_id for s in draining if s in plane.hub.sandboxes}
        await push_drains(plane, [s for s, c in connected.items() if (s, c) not in self._drained], "draining")
        self._drained = set(connected.items())
        for host_id in pending & plane.hub.hosts.keys():
            await push_bindings(plane, host_id)
        return None
