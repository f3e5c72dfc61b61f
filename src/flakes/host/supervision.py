"""One instance's life: started or found again, restarted when its daemon dies, ended for good once.

A daemon that dies unexpectedly is started again on the same directory, because its journal holds results
that nobody has seen yet (F28): at once the first time, then more slowly, and never again after
`DEATHS_MAX` deaths within `DEATHS_WINDOW_S`. A daemon that exits with 0 has retired: that is an end. An
exit code that cannot be known (a daemon of an earlier host process, on an older kernel) counts as a
death: a daemon that had retired says so again, within a second.

The supervisor decides; the provider acts on processes, `Instances` on files, and who is told about it is
the caller's business. States only go forward: launching → running (→ launching → running ...) → exited.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import structlog

from flakes.host.instances import Instances, Record
from flakes.host.providers.base import Handle, LaunchError, LaunchSpec, Provider
from flakes.wire.addresses import Addresses
from flakes.wire.host_stream import InstanceReport

DEATHS_MAX: Final = 5
DEATHS_WINDOW_S: Final = 60.0
BACKOFF_S: Final = 0.5
STOP_GRACE_S: Final = 9.0
"""The daemon needs up to 8 s to end its tasks."""

log = structlog.get_logger("flakes.host")


class Supervisor:
    """Use: `await start()` or `await adopt()`, then `await run()` once. `stop` may come at any time
    and as often as it likes."""

    def __init__(self, record: Record, provider: Provider, instances: Instances) -> None:
        self.record = record
        self.state: Literal["launching", "running", "exited"] = "launching"
        self._spec: LaunchSpec = instances.spec(record)
        self._provider = provider
        self._instances = instances
        self._handle: Handle | None = None
        self._stop = asyncio.Event()
        self._stop_reason = ""
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        self._last_death = ""
        self.left: Sequence[int | str] = ()
        """After `run`: pids (or names) of what would not die."""

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def report(self) -> InstanceReport:
        """This instance in the host's inventory."""
        return InstanceReport(
            instance_id=self.record.instance_id,
            sandbox_id=self.record.sandbox_id,
            pool_key=self.record.pool_key,
            state=self.state,
        )

    def stop(self, reason: str) -> None:
        """Make `run` end the instance now."""
        if not self._stop.is_set():
            self._stop_reason = reason
            self._stop.set()

    def order_end(self, reason: str) -> None:
        """Stop for good: written down, so that a host that dies now goes on with it at its next
        start."""
        self.record = msgspec.structs.replace(self.record, stopping=True)
        self._note(pid=self.record.pid, start=self.record.start)
        self.stop(reason)

    async def start(self) -> None:
        """Start the daemon for the first time. Raises `LaunchError`."""
        await self._launch()

    async def adopt(self, control_plane_url: Addresses) -> None:
        """Take over what an earlier host process left: a daemon that runs, or one that died meanwhile
        and is started again by `run`. A daemon that talks to an address where the control plane no
        longer is gets ended and started again, because it could not reach anybody."""
        record = self.record
        self._handle = await self._provider.adopt(self._spec, record.pid, record.start)
        moved = await asyncio.to_thread(
            self._instances.move_control_plane, record, control_plane_url
        )
        if self._handle and moved and not self.stopping:
            await self._provider.stop(self._handle, STOP_GRACE_S)
            self._handle = None
        if self._handle:
            self.state = "running"
            self._note(pid=self._handle.pid, start=self._handle.start)
        log.info(
            "instance_adopted",
            instance=record.instance_id,
            pid=self._handle.pid if self._handle else None,
        )

    async def run(self) -> str:
        """Watch the daemon until the instance has ended and nothing of it is left; why it ended."""
        reason = await self._watch()
        if self._handle:
            self.left = await self._provider.stop(self._handle, STOP_GRACE_S)
        else:
            self.left = await self._provider.cleanup(self._spec, self.record.pid, self.record.start)
        self.state = "exited"
        self._note(pid=0, start="")
        if self.left:
            log.error("processes_left", instance=self.record.instance_id, pids=self.left)
            reason += f"; processes {self.left} could not be killed"
        log.info("instance_ended", instance=self.record.instance_id, reason=reason)
        return reason

    async def _watch(self) -> str:
        """Until there is a reason to end; `_handle` is set if the daemon may still run."""
        while not self.stopping:
            if self._handle is None:
                try:
                    await self._launch()
                except LaunchError as error:
                    if not self._spec.directory.is_dir():
                        # What no attempt can bring back: the control plane gets to know it now.
                        return "its directory was removed"
                    self._last_death = str(error)
                    if not await self._may_restart():
                        return await self._given_up()
                continue
            code = await self._exit_or_stop(self._handle)
            if self.stopping:
                break
            self._handle = None
            if code == 0:
                return "the daemon retired (idle or drained)"
            self.state = "launching"
            self._last_death = _describe(code)
            log.warning("daemon_died", instance=self.record.instance_id, how=self._last_death)
            if not await self._may_restart():
                return await self._given_up()
        return self._stop_reason

    async def _launch(self) -> None:
        await asyncio.to_thread(self._instances.rotate_log, self.record)
        handle = await self._provider.launch(self._spec)
        self._handle = handle
        self.state = "running"
        # Written by this thread: a small file, and the window in which the pid is known to nobody
        # else should be short. `adopt` copes with a host that dies in it.
        self._note(pid=handle.pid, start=handle.start)
        log.info(
            "daemon_started",
            instance=self.record.instance_id,
            sandbox=self.record.sandbox_id,
            pid=handle.pid,
            isolation=self._provider.isolation,
        )

    async def _exit_or_stop(self, handle: Handle) -> int | None:
        exit_ = asyncio.create_task(self._provider.wait_exit(handle))
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((exit_, stop), return_when=asyncio.FIRST_COMPLETED)
            return exit_.result() if exit_.done() else None
        finally:
            for task in (exit_, stop):
                task.cancel()
            await asyncio.gather(exit_, stop, return_exceptions=True)

    async def _may_restart(self) -> bool:
        """Wait as long as the recent deaths demand; False when they were too many."""
        now = time.monotonic()
        self._deaths.append(now)
        recent = sum(1 for death in self._deaths if now - death <= DEATHS_WINDOW_S)
        if recent >= DEATHS_MAX:
            return False
        if recent > 1:
            try:
                await asyncio.wait_for(self._stop.wait(), BACKOFF_S * 2 ** (recent - 2))
            except TimeoutError:
                pass
        return True

    async def _given_up(self) -> str:
        tail = await asyncio.to_thread(self._instances.log_tail, self.record)
        reason = (
            f"the daemon died {DEATHS_MAX} times within {DEATHS_WINDOW_S:.0f} s,"
            f" the last time: {self._last_death}"
        )
        return f"{reason}; its log ends:\n{tail}" if tail else reason

    def _note(self, *, pid: int, start: str) -> None:
        self.record = msgspec.structs.replace(self.record, pid=pid, start=start)
        try:
            self._instances.save(self.record)
        except OSError as error:
            # A full disk must not end a daemon that runs; adoption finds it by its mark.
            log.error("record_not_written", instance=self.record.instance_id, error=str(error))


def _describe(code: int | None) -> str:
    if code is None:
        return "it ended while another host process watched it"
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
