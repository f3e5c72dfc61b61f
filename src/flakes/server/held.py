"""Requests that are held until what they ask for is settled: the answer to a question, the end of a wait.

One that is held has no connection to the database: it looks, lets the connection go, and sleeps until the
subject is settled on this replica, until it is time to look whether another replica settled it, or until the
asker's patience ends. Nothing depends on it being there: what is settled is in the database, and whoever
lost an answer asks again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from flakes.server.wake import Wake

RECHECK_S: Final = 2.0
"""How late it may be noticed what another replica has settled, or that the attempt has ended."""

Found = TypeVar("Found")


class Held:
    """See the module. Subjects are named by their identifiers."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[Wake]] = defaultdict(set)
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def publish(self, subject_id: str) -> None:
        """It is settled: whoever is held for it looks."""
        for wake in self._waiting.get(subject_id, ()):
            wake.set()

    def publish_all(self) -> None:
        """Anything may be settled."""
        for subject_id in list(self._waiting):
            self.publish(subject_id)

    def close(self) -> None:
        """The server is going down: everyone gets what there is."""
        self._closed = True
        self.publish_all()

    async def until(
        self,
        subject_id: str,
        look: Callable[[], Awaitable[Found]],
        settled: Callable[[Found], bool],
        hold_s: float,
    ) -> Found:
        """What `look` finds once that is `settled`, or as it stands after `hold_s` seconds."""
        until_s = time.monotonic() + hold_s
        wake = Wake()
        # Listening comes before looking, so an end in between is not missed.
        self._waiting[subject_id].add(wake)
        try:
            while True:
                found = await look()
                left_s = until_s - time.monotonic()
                if settled(found) or left_s <= 0 or self._closed:
                    return found
                await wake.wait(min(RECHECK_S, left_s))
        finally:
            self._waiting[subject_id].discard(wake)
            if not self._waiting[subject_id]:
                del self._waiting[subject_id]
