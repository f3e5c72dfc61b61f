"""The garbage collector: removes what nobody waits for, or refers to, any more. Runs on the leader, when something
was deleted and every few minutes.

Abandoned uploads go with their artifacts, bytes whose upload is gone go alone, and blobs by the rule of
`store.garbage`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from flakes.server.loops.leadership import Leadership
from flakes.server.plane import Plane
from flakes.store import artifacts, garbage, workspaces

INTERVAL_S = 300.0
NOT_LEADING_S = 5.0
BATCH = 100

log = structlog.get_logger()


class Garbage:
    """See the module."""

    def __init__(self, plane: Plane, leadership: Leadership) -> None:
        self._plane = plane
        self._leadership = leadership

    async def run_once(self) -> float | None:
        """One round over everything."""
        if self._leadership.term() is None:
            return NOT_LEADING_S
        abandoned = await self._abandon()
        orphans = await self._remove_orphans()
        before = datetime.now(UTC) - timedelta(seconds=artifacts.ABANDONED_AFTER_S)
        broken = await self._plane.blobs.sweep_uploads(before)
        await self._forget_snapshots()
        blobs = await self._collect()
        if abandoned or orphans or broken or blobs:
            log.info("garbage", abandoned=abandoned, orphans=orphans, broken=broken, blobs=blobs)
        return None

    async def _abandon(self) -> int:
        plane, count = self._plane, 0
        while True:
            async with plane.database.transaction() as conn:
                gone = await artifacts.abandon(conn, artifacts.ABANDONED_AFTER_S, BATCH)
            for upload in gone:
                await plane.uploads.discard(upload)
            count += len(gone)
            if gone:
                plane.wrote()
            if len(gone) < BATCH:
                return count

    async def _remove_orphans(self) -> int:
        """Uploads that lost their artifact with its run, or whose removal was cut short. Listed before
        they are looked up, so one that begins meanwhile is not among them."""
        plane, count = self._plane, 0
        names = await plane.uploads.names()
        for at in range(0, len(names), BATCH):
            some = names[at : at + BATCH]
            async with plane.database.connection() as conn:
                known = await artifacts.known_uploads(conn, some)
            for name in some:
                if name not in known:
                    await plane.uploads.remove(name)
                    count += 1
        return count

    async def _forget_snapshots(self) -> None:
        plane = self._plane
        while True:
            async with plane.database.transaction() as conn:
                gone = await workspaces.forget_unbound(conn, workspaces.UNBOUND_KEPT_S, BATCH)
            if gone < BATCH:
                return

    async def _collect(self) -> int:
        plane, count = self._plane, 0
        while True:
            async with plane.database.transaction() as conn:
                seen, deleted = await garbage.collect(conn, plane.blobs)
            count += deleted
            if seen < garbage.BATCH:
                return count
