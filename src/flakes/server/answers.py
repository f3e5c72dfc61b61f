"""Tasks that wait for the answer to a permission request, held without a connection to the database.

A wait reads the request, lets the connection go, and sleeps until the answer is given on this replica,
until it is time to look whether another replica gave it, or until the asker's patience ends. Nothing
depends on a wait being there: the answer is in the database, and whoever lost a wait asks again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

from flakes.server.wake import Wake
from flakes.store import permissions
from flakes.wire.permissions import Permission

if TYPE_CHECKING:
    from flakes.server.plane import Plane

RECHECK_S = 2.0
"""How late the answer that another replica took, or the end of the attempt, may be noticed."""


class Answers:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[Wake]] = defaultdict(set)
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def publish(self, permission_id: str) -> None:
        """The request is decided: wake who waits for it."""
        for wake in self._waiting.get(permission_id, ()):
            wake.set()

    def publish_all(self) -> None:
        """Any request may be decided."""
        for permission_id in list(self._waiting):
            self.publish(permission_id)

    def close(self) -> None:
        """The server is going down: every wait ends with the request as it is."""
        self._closed = True
        self.publish_all()

    async def wait(
        self, plane: Plane, assignment_id: str, permission_id: str, wait_s: float
    ) -> Permission:
        """The request once it is not pending any more, or as it stands after `wait_s`."""
        until_s = time.monotonic() + wait_s
        wake = Wake()
        # Listening comes before looking, so an answer in between is not missed.
        self._waiting[permission_id].add(wake)
        try:
            while True:
                async with plane.database.connection() as conn:
                    found = await permissions.status(conn, assignment_id, permission_id)
                left_s = until_s - time.monotonic()
                if found.status != "pending" or left_s <= 0 or self._closed:
                    return found
                await wake.wait(min(RECHECK_S, left_s))
        finally:
            self._waiting[permission_id].discard(wake)
            if not self._waiting[permission_id]:
                del self._waiting[permission_id]
