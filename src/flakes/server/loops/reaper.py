"""The reaper: takes back what silent, idle or failed sandboxes hold. Runs on the leader, every second."""

from __future__ import annotations

import structlog

from flakes.server.loops.leadership import Leadership
from flakes.server.plane import Plane
from flakes.server.streams.hosts import end_lost, push_leases
from flakes.store import links, sandboxes
from flakes.store.transitions import Withdraw
from flakes.wire.sandbox_stream import Cancel

INTERVAL_S = 1.0
SLOW_EVERY = 5
"""Idle and launch time-outs are looked at on every fifth pass."""

log = structlog.get_logger()


class Reaper:
    """See the module."""

    def __init__(self, plane: Plane, leadership: Leadership) -> None:
        self._plane = plane
        self._leadership = leadership
        self._pass = 0

    async def run_once(self) -> float | None:
        """One look at everything that may be overdue."""
        term = self._leadership.term()
        if term is None:
            return None
        self._pass += 1
        await self._withdraw_offers()
        await self._write_off(term.held_s)
        if self._pass % SLOW_EVERY == 0:
            await self._end_launches()
            await self._retire_idle()
        return None

    async def _withdraw_offers(self) -> None:
        """An offer nobody accepts goes back to the queue; the sandbox is told, in case it is only slow."""
        leases = self._plane.config.leases
        async with self._plane.database.connection() as conn:
            stale = await links.stale_offers(conn, leases.offer_timeout_s)
        if not stale:
            return
        # An accept may have come since they were listed: only what is really withdrawn is cancelled.
        applied = await self._plane.transitions.write(
            [Withdraw(a, "the offer was not accepted in time") for a, _ in stale]
        )
        for assignment_id, sandbox_id in stale:
            if assignment_id in applied.withdrawn:
                cancel = Cancel(assignment_ids=[assignment_id], reason="the offer was withdrawn")
                self._plane.hub.send_sandbox(sandbox_id, cancel)

    async def _write_off(self, held_s: float) -> None:
        """Sandboxes that have been silent too long: their work is lost, their place in the pool free (F20)."""
        lost_after_s = self._plane.config.leases.lost_after_s
        async with self._plane.database.connection() as conn:
            lost = await links.lost(conn, lost_after_s=lost_after_s, held_s=held_s)
            unheard = await links.unheard(conn, lost_after_s=lost_after_s, held_s=held_s)
        if lost:
            log.warning("reaper.lost", assignments=len(lost))
            await end_lost(
                self._plane, [a for a, _ in lost], f"nothing heard from its sandbox for {lost_after_s:g} s"
            )
        if unheard:
            async with self._plane.database.transaction() as conn:
                reason = f"nothing heard for {lost_after_s:g} s"
                await sandboxes.ended(conn, unheard, "expired", reason)
            self._plane.wrote(freed=1)

    async def _end_launches(self) -> None:
        capacity = self._plane.config.capacity
        async with self._plane.database.transaction() as conn:
            overdue = await sandboxes.overdue(conn, capacity.launch_timeout_s)
            reason = f"it did not connect within {capacity.launch_timeout_s:g} s"
            lost = await sandboxes.ended(
                conn, overdue, "failed", reason, backoff_s=capacity.launch_backoff_s
            )
        if overdue:
            log.warning("reaper.launch_timeout", sandboxes=len(overdue))
            await end_lost(self._plane, lost, reason)
            self._plane.wrote(freed=1)

    async def _retire_idle(self) -> None:
        async with self._plane.database.transaction() as conn:
            idle = await sandboxes.idle(conn, self._plane.config.capacity.idle_retire_s)
            hosts = [
                await sandboxes.stop(conn, sandbox_id, drain=True, reason="idle") for sandbox_id in idle
            ]
        self._plane.reach(*idle)
        for host_id in {host_id for host_id in hosts if host_id}:
            await push_leases(self._plane, host_id)
