"""What the host does with leases: launch, stop, and a true inventory at any moment.

Every order is idempotent. A lease that was answered is answered again in the same words; a launch for
an instance that exists is a success; a stop for one that does not is a success too. What ended is
remembered until the control plane has had it in an inventory that it welcomed, so that a report lost
with a connection is not lost.

This module owns which supervisors exist. It knows nothing of connections: reports go to a callable
that may drop them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from flakes.host.instances import Instances, Record, UnsafeIdError
from flakes.host.providers.base import LaunchError, LaunchSpec, Provider
from flakes.host.supervision import Supervisor
from flakes.wire.config import HostConfig
from flakes.wire.host_stream import (
    InstanceExited,
    InstanceReport,
    Launch,
    LeaseResult,
    Stop,
    Upstream,
)

REMEMBERED_MAX: Final = 1_024
"""The control plane keeps no more."""
LAUNCHES_AT_ONCE: Final = 8

log = structlog.get_logger("flakes.host")


class Provisioning:
    """The instances of this host. All methods run on the event loop's thread."""

    def __init__(
        self,
        config: HostConfig,
        instances: Instances,
        providers: dict[str, Provider],
        daemon_argv: tuple[str, ...],
        report: Callable[[Upstream], None],
        is_connected: Callable[[], bool],
    ) -> None:
        self._config = config
        self._pools = {pool.pool_key: pool for pool in config.pools}
        self._instances = instances
        self._providers = providers
        self._daemon_argv = daemon_argv
        self._report = report
        self._is_connected = is_connected
        self._supervisors: dict[str, Supervisor] = {}
        self._launching: dict[str, InstanceReport] = {}
        self._results: OrderedDict[str, LeaseResult] = OrderedDict()
        """Answered leases, for when the question is repeated."""
        self._ended: OrderedDict[str, InstanceReport] = OrderedDict()
        self._unreported: dict[str, InstanceReport] = {}
        self._stop_leases: dict[str, set[str]] = {}
        """Leases to answer when an instance has ended."""
        self._early_stops: dict[str, str] = {}
        self._cleaning: set[str] = set()
        """Leases whose leftovers are being removed."""
        self._tasks: set[asyncio.Task[object]] = set()
        self._starts = asyncio.Semaphore(LAUNCHES_AT_ONCE)
        self._closing = False

    # ---- inventory

    def inventory(self) -> list[InstanceReport]:
        """Every instance that exists, and those that ended and were not welcomed yet."""
        alive = [supervisor.report() for supervisor in self._supervisors.values()]
        return [*self._launching.values(), *alive, *self._unreported.values()]

    def welcomed(self, inventory: list[InstanceReport]) -> None:
        """The control plane has taken this inventory in: its ends need not be told again."""
        for item in inventory:
            if item.state == "exited":
                self._unreported.pop(item.instance_id, None)

    def count(self) -> int:
        return len(self._supervisors) + len(self._launching)

    # ---- after a start of the host

    async def adopt(self) -> None:
        """Find everything that an earlier host process left, in parallel."""
        records = self._instances.records()
        for leftover in self._instances.leftovers():
            self._spawn(self._clear(leftover))
        await asyncio.gather(*(self._adopt(record) for record in records))

    async def _adopt(self, record: Record) -> None:
        provider = self._providers.get(record.provider)
        if provider is None:
            log.error("instance_of_unknown_provider", instance=record.instance_id)
            return
        supervisor = Supervisor(record, provider, self._instances)
        if record.host_id != self._config.host_id:
            supervisor.stop("it belonged to another host identity")
        elif record.stopping:
            supervisor.stop("stopped")
        await supervisor.adopt(self._config.control_plane_url)
        self._supervisors[record.instance_id] = supervisor
        self._spawn(self._oversee(supervisor))

    async def _clear(self, directory: Path) -> list[int | str]:
        """Nothing should run in a leftover; look all the same, then delete it. The pids (or
        names) that would not die."""
        spec = LaunchSpec(directory.name, directory.name, (str(directory),), directory, directory)
        left: list[int | str] = []
        for provider in self._providers.values():
            left += await provider.cleanup(spec, 0, "")
        await asyncio.to_thread(self._instances.remove, directory)
        return left

    async def _clean_up(self, order: Stop) -> None:
        """Leave nothing behind of an instance that ended, or was never here; say so, or what is left."""
        try:
            directory = self._instances.directory(order.instance_id)
            left = await self._clear(directory) if directory.exists() else []
            problem = f"processes {left} could not be killed" if left else ""
            if not problem and directory.exists():
                problem = "its directory could not be removed"
        except UnsafeIdError:
            problem = ""  # nothing here ever had such a name
        except OSError as error:
            problem = f"its leftovers could not be removed: {error.strerror}"
        finally:
            self._cleaning.discard(order.lease_id)
        self._answer(order.lease_id, problem)
        if not problem:
            gone = self._ended.get(order.instance_id)
            reason = gone.reason if gone else "there is no such instance on this host"
            self._report(InstanceExited(instance_id=order.instance_id, reason=reason))

    # ---- orders

    def launch(self, order: Launch) -> None:
        """Start an instance; the answer is a `LeaseResult`, sooner or later."""
        known = self._results.get(order.lease_id)
        if known is not None:
            # The answer got lost, and so did the token that was sent with the question before.
            if order.instance_id in self._supervisors:
                self._renew_token(order)
            self._report(known)
            self._repeat_end(order.instance_id)
        elif order.instance_id in self._launching:
            pass  # its answer is on its way
        elif order.instance_id in self._supervisors:
            self._renew_token(order)
            self._answer(order.lease_id)
        elif order.instance_id in self._ended:
            self._answer(order.lease_id, "the instance has ended and is not started again")
            self._repeat_end(order.instance_id)
        else:
            refusal = self._refusal(order)
            if refusal:
                log.warning("launch_refused", instance=order.instance_id, reason=refusal)
                self._answer(order.lease_id, refusal)
                return
            self._launching[order.instance_id] = _reported(order, "launching")
            self._spawn(self._launch(order))

    def stop(self, order: Stop) -> None:
        """End an instance. With `drain` the daemon, which the control plane has told to take nothing
        new, gets the time it needs to exit by itself."""
        supervisor = self._supervisors.get(order.instance_id)
        if order.lease_id in self._results:
            self._report(self._results[order.lease_id])
            self._repeat_end(order.instance_id)
        elif supervisor is None and order.instance_id not in self._launching:
            if order.lease_id not in self._cleaning:
                self._cleaning.add(order.lease_id)
                self._spawn(self._clean_up(order))
        else:
            self._stop_leases.setdefault(order.instance_id, set()).add(order.lease_id)
            log.info("stop_ordered", instance=order.instance_id, drain=order.drain)
            if order.drain:
                return
            if supervisor is None:  # its start takes milliseconds; `_launch` looks here then
                self._early_stops[order.instance_id] = order.reason
            else:
                supervisor.order_end(order.reason or "stopped")

    async def shutdown(self) -> None:
        """End every instance in parallel, in bounded time. While the control plane does not hear us,
        their directories stay, so that the next start brings unsent results back."""
        self._closing = True
        for supervisor in self._supervisors.values():
            supervisor.stop("the host was shut down")
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    # ---- within

    def _refusal(self, order: Launch) -> str:
        """Why a launch cannot be; empty when it can."""
        pool = self._pools.get(order.pool_key)
        if self._closing:
            return "the host is shutting down"
        if pool is None:
            return f"this host has no pool `{order.pool_key[:100]}`"
        # Those on their way out do not count: their replacement may come first.
        busy = [
            s
            for s in self._supervisors.values()
            if s.record.pool_key == order.pool_key and not s.stopping
        ]
        launching = [r for r in self._launching.values() if r.pool_key == order.pool_key]
        if len(busy) + len(launching) >= pool.max_instances:
            return f"pool `{order.pool_key}` is at its maximum of {pool.max_instances} instances"
        return ""

    async def _launch(self, order: Launch) -> None:
        pool = self._pools[order.pool_key]
        supervisor: Supervisor | None = None
        try:
            async with self._starts:
                provider = self._providers[pool.provider]
                record = await asyncio.to_thread(
                    self._instances.create, order, pool, self._config, self._daemon_argv, provider
                )
                supervisor = Supervisor(record, provider, self._instances)
                await supervisor.start()
        except (LaunchError, UnsafeIdError, OSError) as error:
            await self._launch_failed(order, supervisor, str(error))
            return
        finally:
            self._launching.pop(order.instance_id, None)
        self._supervisors[order.instance_id] = supervisor
        self._answer(order.lease_id)
        if order.instance_id in self._early_stops:
            supervisor.order_end(self._early_stops.pop(order.instance_id) or "stopped")
        elif self._closing:
            supervisor.stop("the host was shut down")
        await self._oversee(supervisor)

    async def _launch_failed(
        self, order: Launch, supervisor: Supervisor | None, reason: str
    ) -> None:
        log.error("launch_failed", instance=order.instance_id, reason=reason)
        try:
            directory = self._instances.directory(order.instance_id)
            await asyncio.to_thread(self._instances.remove, directory)
        except (UnsafeIdError, OSError):
            pass  # a leftover; the next start clears it
        self._remember_end(_reported(order, "exited", reason))
        self._answer(order.lease_id, reason)
        self._early_stops.pop(order.instance_id, None)
        for lease_id in self._stop_leases.pop(order.instance_id, set()):
            self._answer(lease_id)

    async def _oversee(self, supervisor: Supervisor) -> None:
        """Follow an instance to its end, clear up after it, and tell."""
        instance_id = supervisor.record.instance_id
        reason = await supervisor.run()
        problem = f"processes {supervisor.left} could not be killed" if supervisor.left else ""
        unheard = self._closing and not self._is_connected()
        if not (unheard and supervisor.stopping and not supervisor.record.stopping):
            directory = self._instances.directory(instance_id)
            try:
                await asyncio.to_thread(self._instances.remove, directory)
            except OSError as error:
                log.error("directory_not_removed", instance=instance_id, error=str(error))
            if not problem and directory.exists():
                problem = "its directory could not be removed"
        del self._supervisors[instance_id]
        ended = msgspec.structs.replace(
            supervisor.report(), state="exited", reason=reason
        )
        self._remember_end(ended)
        for lease_id in self._stop_leases.pop(instance_id, set()):
            self._answer(lease_id, problem)
        left = bool(problem)
        self._report(InstanceExited(instance_id=instance_id, reason=ended.reason, left=left))

    def _renew_token(self, order: Launch) -> None:
        """A repeated launch may bring another token: the daemon reads it at its next connect."""
        try:
            self._instances.write_credential(order.instance_id, order.sandbox_token)
        except OSError as error:
            log.error("token_not_written", instance=order.instance_id, error=str(error))

    def _answer(self, lease_id: str, reason: str = "") -> None:
        """Answer a lease, now and whenever it is asked again. A reason means that it failed."""
        result = LeaseResult(lease_id=lease_id, ok=not reason, reason=reason)
        self._results[lease_id] = result
        if len(self._results) > REMEMBERED_MAX:
            self._results.popitem(last=False)
        self._report(result)

    def _remember_end(self, ended: InstanceReport) -> None:
        self._ended[ended.instance_id] = self._unreported[ended.instance_id] = ended
        if len(self._ended) > REMEMBERED_MAX:
            old, _ = self._ended.popitem(last=False)
            self._unreported.pop(old, None)

    def _repeat_end(self, instance_id: str) -> None:
        ended = self._ended.get(instance_id)
        if ended:
            self._report(InstanceExited(instance_id=instance_id, reason=ended.reason))

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error:
            log.error("task_failed", exc_info=error)


def _reported(order: Launch, state: Any, reason: str = "") -> InstanceReport:
    return InstanceReport(
        instance_id=order.instance_id,
        sandbox_id=order.sandbox_id,
        pool_key=order.pool_key,
        state=state,
        reason=reason,
    )
