"""The scheduler: load a snapshot, make the pure plan, claim what it says, deliver, explain the rest.

Runs on the leader only. A pass is triggered by changes (ready, freed, connected) and by a slow timer; its
cost depends on classes and placements, not on tasks times sandboxes (F18).
"""

from __future__ import annotations

import structlog

from flakes.core.placement import Unplaced, plan
from flakes.server.loops.leadership import Leadership
from flakes.server.plane import Plane
from flakes.server.streams.hosts import push_leases
from flakes.store import leases, placement
from flakes.store.database import UNAVAILABLE

INTERVAL_S = 2.0

log = structlog.get_logger()


class Scheduler:
    """See the module. `explained` remembers what was last written, to write changes only."""

    def __init__(self, plane: Plane, leadership: Leadership) -> None:
        self._plane = plane
        self._leadership = leadership
        self._explained: dict[int, Unplaced] = {}
        self._term = 0
        self._reader = placement.SnapshotReader()

    async def run_once(self) -> float | None:
        """One pass; seconds until a delayed retry is due, if that is sooner than the timer."""
        term = self._leadership.term()
        if term is None:
            return None
        if term.term != self._term:
            self._term = term.term
            self._explained.clear()  # another leader may have written since
        plane = self._plane
        suspect_after_s = plane.config.leases.suspect_after_s
        async with plane.database.connection() as conn:
            snapshot, delayed_s = await self._reader.read(conn, suspect_after_s=suspect_after_s)
            if not snapshot.classes:
                self._explained.clear()
                return delayed_s
            made = plan(snapshot)
            if made.placements:
                try:
                    offers = await placement.claim(
                        conn, made.placements, holder=plane.replica_id, term=term.term
                    )
                except UNAVAILABLE:
                    plane.undelivered.set()  # the claim may stand although its answer was lost
                    raise
                plane.send_offers(offers)
                if len(offers) < len(made.placements):
                    plane.schedule.set()  # the plan was stale: look again
        for launch in made.launches:
            async with plane.database.transaction() as conn:
                host_id = await leases.launch(conn, launch.pool_id, launch.count)
            if host_id is not None:
                log.info("scheduler.launch", pool=launch.pool_id, count=launch.count)
                await push_leases(plane, host_id)
                plane.wrote()
        await self._explain(made.unplaced)
        return delayed_s

    async def _explain(self, unplaced: tuple[Unplaced, ...]) -> None:
        news = [u for u in unplaced if self._explained.get(u.class_id) != u]
        if news:
            async with self._plane.database.connection() as conn:
                await placement.explain(conn, news)
        self._explained = {u.class_id: u for u in unplaced}
