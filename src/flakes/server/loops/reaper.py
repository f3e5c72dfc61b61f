"""The reaper: takes back what silent, idle or failed sandboxes hold. Runs on the leader, every second."""

from __future__ import annotations

import structlog

from flakes.core.fleet import InstanceEvent, InstanceState
from flakes.server.loops.leadership import Leadership
from flakes.server.plane import Plane
from flakes.server.streams.hosts import end_lost, push_leases
from flakes.store import leases, links, sandboxes
from flakes.store.transitions import Withdraw
from flakes.wire.sandbox_stream import Cancel

INTERVAL_S = 1.0
SLOW_EVERY = 5
"""Idle and launch time-outs are looked at on every fifth pass."""

EXPIRED_KEPT_S = 600.0
"""How long a silent sandbox may come back before its connected host is asked to end it."""

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
        await self._clean_up()
        if self._pass % SLOW_EVERY == 0:
            await self._end_launches()
            await self._retire_idle()
            await self._end_expired()
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
                await sandboxes.silent(conn, unheard, reason)
            self._plane.wrote(freed=1)

    async def _end_launches(self) -> None:
        capacity = self._plane.config.capacity
        async with self._plane.database.transaction() as conn:
            overdue = await sandboxes.overdue(conn, capacity.launch_timeout_s)
            reason = f"it did not connect within {capacity.launch_timeout_s:g} s"
            lost = await sandboxes.failed(
                conn, overdue, reason, backoff_s=capacity.launch_backoff_s, released=False
            )
        if overdue:
            log.warning("reaper.launch_timeout", sandboxes=len(overdue))
            await end_lost(self._plane, lost, reason)
            self._plane.wrote(freed=1)

    async def _retire_idle(self) -> None:
        async with self._plane.database.transaction() as conn:
            idle = await sandboxes.idle(conn, self._plane.config.capacity.idle_retire_s)
            told = await leases.end_all(conn, idle, InstanceEvent.DRAIN, "idle")
        self._plane.reach(*idle)
        await self._push(told)

    async def _end_expired(self) -> None:
        """Silent sandboxes of hosts that are heard: nobody else would ever end them. One that was to end by
        itself, and says nothing any more, is not waited for."""
        kept_s = max(EXPIRED_KEPT_S, self._plane.config.leases.lost_after_s)
        lost_after_s = self._plane.config.leases.lost_after_s
        async with self._plane.database.transaction() as conn:
            expired = await sandboxes.long_in(conn, InstanceState.EXPIRED, kept_s)
            stuck = await sandboxes.stuck(conn, lost_after_s)
            told = await leases.end_all(conn, [*expired, *stuck], InstanceEvent.STOP, "nothing heard")
        await self._push(told)

    async def _clean_up(self) -> None:
        """Ask hosts to leave nothing behind of what is over, until they say so."""
        async with self._plane.database.transaction() as conn:
            told = await leases.clean_up_due(conn)
        await self._push(told)

    async def _push(self, host_ids: set[str]) -> None:
        for host_id in host_ids:
            await push_leases(self._plane, host_id)
        if host_ids:
            self._plane.wrote()
