"""Inputs: messages that another replica stored for sandboxes connected to this one. Runs on every replica.

The replica that takes a message sends it at once when the sandbox is its own, and a sandbox that connects
gets everything queued; this loop is for the rest. It may send one a second time, which the sandbox knows
by the message's id.
"""

from __future__ import annotations

from flakes.server.plane import Plane
from flakes.server.streams.sandboxes import send_inputs
from flakes.store import messages

INTERVAL_S = 1.0


class Inputs:
    """See the module."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def run_once(self) -> float | None:
        """Send what nobody has sent yet."""
        connected = list(self._plane.hub.sandboxes)
        if connected:
            async with self._plane.database.connection() as conn:
                unsent = await messages.unsent(conn, connected)
            for sandbox_id, message in unsent:
                send_inputs(self._plane, sandbox_id, [message])
        return None
