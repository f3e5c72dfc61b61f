"""Listening to the other replicas: their notices wake what looks into the store here.

Runs on every replica; one that is alone has nobody to listen to and no connection for it. Whenever
listening begins everything looks once: what was said before is missed.
"""

from __future__ import annotations

from contextlib import aclosing

import structlog

from flakes.server.plane import Plane
from flakes.store import replicas
from flakes.wire.replicas import ANSWERED, EVENTS, LOGS, MOVED, READY, SETTLED, Notice

INTERVAL_S = 0.5
"""How late it begins when another replica has come, or the connection is lost."""
SILENCE_S = 15.0
"""After this without a notice the connection is tried."""

log = structlog.get_logger()


class Listening:
    """See the module."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def run_once(self) -> float | None:
        """Listen for as long as there are others; raises when the connection is lost."""
        plane = self._plane
        if not plane.replicas.others:
            return None
        async with aclosing(replicas.listen(plane.database.dsn, SILENCE_S)) as notices:
            began = False
            async for notice in notices:
                if notice is not None:
                    self._take(notice)
                elif not began:
                    began = True
                    self._look()
                elif not plane.replicas.others:
                    return None
        return 0.0

    def _look(self) -> None:
        plane = self._plane
        plane.undelivered.set()
        plane.changed.set()
        plane.schedule.set()
        plane.merge.set()
        plane.held.publish_all()
        plane.log_readers.publish_all()

    def _take(self, notice: Notice) -> None:
        plane = self._plane
        if notice.sender == plane.replica_id:
            return
        if plane.replica_id in notice.to or MOVED in notice.news:
            plane.undelivered.set()
        for piece in notice.news:
            what, _, subject_id = piece.partition(":")
            if what == EVENTS:
                plane.changed.set()
            elif what == READY:
                plane.schedule.set()
                plane.merge.set()
            elif what == LOGS:
                plane.log_readers.publish([subject_id])
            elif what in (ANSWERED, SETTLED):
                plane.held.publish(subject_id)
