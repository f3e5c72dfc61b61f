"""Tasks that wait and keep their slot for a few seconds, held without a connection to the database.

Nothing depends on somebody being held: what is settled is in the database, and whoever lost an answer asks
again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from flakes.server.wake import Wake
from flakes.store import waits

if TYPE_CHECKING:
    from flakes.server.plane import Plane

RECHECK_S: Final = 2.0
"""How late it may be noticed what another replica has settled."""


class Held:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[Wake]] = defaultdict(set)
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def publish(self, wait_id: str) -> None:
        """The wait is over: whoever is held for it looks."""
        for wake in self._waiting.get(wait_id, ()):
            wake.set()

    def publish_all(self) -> None:
        """Any wait may be over."""
        for wait_id in list(self._waiting):
            self.publish(wait_id)

    def close(self) -> None:
        """The server is going down: nobody is held any longer."""
        self._closed = True
        self.publish_all()

    async def hold(self, plane: Plane, wait_id: str, hold_s: float) -> None:
        """Until the wait is over, at most `hold_s`."""
        until_s = time.monotonic() + hold_s
        wake = Wake()
        # Listening comes before looking, so an end in between is not missed.
        self._waiting[wait_id].add(wake)
        try:
            while True:
                async with plane.database.connection() as conn:
                    found = await waits.get(conn, wait_id)
                left_s = until_s - time.monotonic()
                if found.state != "pending" or left_s <= 0 or self._closed:
                    return
                await wake.wait(min(RECHECK_S, left_s))
        finally:
            self._waiting[wait_id].discard(wake)
            if not self._waiting[wait_id]:
                del self._waiting[wait_id]
