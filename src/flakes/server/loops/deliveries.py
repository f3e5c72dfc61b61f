"""Deliveries: what others stored for the sandboxes and hosts connected here. Runs on every replica.

Woken by a call of another replica; otherwise it looks by itself, seldom while this replica is alone.
"""

from __future__ import annotations

import asyncio

from flakes.server.plane import Plane
from flakes.server.streams import delivery

INTERVAL_S = 10.0
TOGETHER_S = 2.0
"""How late something may be whose call was lost."""
PAUSE_S = 0.01
"""Calls that come within this are one look."""


class Deliveries:
    """See the module."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def run_once(self) -> float | None:
        """Say what nobody has said yet."""
        await delivery.to_everybody(self._plane)
        await asyncio.sleep(PAUSE_S)
        return TOGETHER_S if self._plane.replicas.others else None
