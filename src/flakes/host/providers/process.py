"""Provider `process`: the daemon is an ordinary process of the user. **No isolation.**

Tasks run as the user who runs the host and can do what that user can. The daemon gets a session of its
own, so a Ctrl-C for the host does not reach it, and outlives the host.

What belongs to an instance, when everything of it must go:

- the daemon, its session and its process group;
- every process that has `FLAKES_SANDBOX_ID=<its sandbox>` in its environment;
- every process without a terminal whose working directory lies in the instance's directory (a shell in
  which somebody is looking around there has a terminal, and stays);
- all descendants of these, and of the daemon as they were before it was asked to end, because the
  children of a dead process have no traceable parent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from flakes import processes
from flakes.core import isolation as labels
from flakes.host.providers.base import Handle, LaunchError, LaunchSpec, refuse_fields
from flakes.processes import Process
from flakes.wire.config import PoolConfig, SandboxConfig

MARK = "FLAKES_SANDBOX_ID"
FREEZE_S = 1.0
"""How long to wait for everything to stand still; what sleeps in the kernel does not."""
SWEEP_S = 5.0
"""How long killing may take before what still runs is reported instead."""

log = structlog.get_logger("flakes.host")


class ProcessProvider:
    name = "process"
    isolation = labels.label("process")

    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        """By pid, until reaped. Only ever touched on the event loop's thread."""

    def check(self, pool: PoolConfig, where: str, hidden: Sequence[Path]) -> None:
        refuse_fields(pool, where, ())

    async def unavailable(self, pool: PoolConfig) -> str:
        return ""

    def arrange(
        self,
        pool: PoolConfig,
        sandbox: SandboxConfig,
        daemon_argv: tuple[str, ...],
        directory: Path,
        hidden: Sequence[Path],
    ) -> tuple[tuple[str, ...], SandboxConfig]:
        return (*daemon_argv, "--config", str(directory / "sandbox.toml")), sandbox

    async def launch(self, spec: LaunchSpec) -> Handle:
        try:
            child = await asyncio.to_thread(_spawn, spec)
        except (OSError, ValueError) as error:
            raise LaunchError(f"`{spec.argv[0]}` cannot be started: {error}") from error
        # Not reaped yet, so it has a row even if it has already ended.
        row = processes.read(child.pid)
        if row is None:
            child.kill()
            child.wait()
            raise LaunchError("the process table of this machine cannot be read")
        self._children[child.pid] = child
        return Handle(spec, child.pid, row.start)

    async def adopt(self, spec: LaunchSpec, pid: int, start: str) -> Handle | None:
        if pid and processes.is_alive(pid, start):
            return Handle(spec, pid, start)
        # The host may have died between starting the daemon and writing down its pid.
        found = await asyncio.to_thread(_unrecorded, spec)
        return Handle(spec, found.pid, found.start) if found else None

    async def wait_exit(self, handle: Handle) -> int | None:
        code = await processes.ended(handle.pid, handle.start)
        child = self._children.pop(handle.pid, None)
        return child.wait() if child else code

    async def stop(self, handle: Handle, grace_s: float) -> list[int]:
        before = await asyncio.to_thread(_belongings, handle.spec, handle.pid, handle.start)
        processes.send(handle.pid, handle.start, signal.SIGTERM)
        try:
            await asyncio.wait_for(self.wait_exit(handle), grace_s)
        except TimeoutError:
            log.warning("daemon_killed", instance=handle.spec.instance_id, after_s=grace_s)
        left = await self._sweep(handle.spec, handle.pid, handle.start, before)
        if handle.pid not in left:
            await self.wait_exit(handle)
        return left

    async def cleanup(self, spec: LaunchSpec, pid: int, start: str) -> list[int]:
        return await self._sweep(spec, pid, start, [])

    async def _sweep(
        self, spec: LaunchSpec, pid: int, start: str, known: list[Process]
    ) -> list[int]:
        """Freeze, then kill, until nothing is found. A process that forks while its parent is being
        killed would have no parent to be found by, so nobody dies before everybody stands still."""
        deadline = time.monotonic() + SWEEP_S
        freeze_until = time.monotonic() + FREEZE_S
        seen = {process.pid: process.start for process in known}
        frozen: set[tuple[int, str]] = set()
        while True:
            found = await asyncio.to_thread(_belongings, spec, pid, start, seen)
            if not found or time.monotonic() > deadline:
                return [process.pid for process in found]
            for process in found:
                if (process.pid, process.start) not in frozen:
                    frozen.add((process.pid, process.start))
                    seen[process.pid] = process.start
                    processes.send(process.pid, process.start, signal.SIGSTOP)
            moving = any(not process.frozen for process in found)
            if moving and time.monotonic() < freeze_until:
                await asyncio.sleep(0.002)
                continue
            for process in found:
                processes.send(process.pid, process.start, signal.SIGKILL)
            waits = [asyncio.create_task(processes.ended(p.pid, p.start)) for p in found]
            _, pending = await asyncio.wait(waits, timeout=0.5)
            for task in pending:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


def _spawn(spec: LaunchSpec) -> subprocess.Popen[bytes]:
    # The host's own FLAKES_ settings (tokens, ready files) are none of the daemon's business.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLAKES_")}
    environment[MARK] = spec.sandbox_id
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    output = os.open(spec.log, flags, 0o600)
    try:
        return subprocess.Popen(
            spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=spec.directory,
            env=environment,
            start_new_session=True,
        )
    finally:
        os.close(output)


def _unrecorded(spec: LaunchSpec) -> Process | None:
    """A daemon that leads a session and has the mark and the arguments of this instance."""
    mark = f"{MARK}={spec.sandbox_id}".encode()
    config = spec.argv[-1].encode()
    for process in processes.table().values():
        if (
            process.pid in (process.session, process.group)
            and mark in processes.environment(process.pid)
            and config in processes.arguments(process.pid)
        ):
            return process
    return None


def _belongings(
    spec: LaunchSpec, pid: int, start: str, seen: dict[int, str] | None = None
) -> list[Process]:
    """Everything alive of an instance by the rules of the module's docstring; never this host, nor
    what started it."""
    rows = processes.table()
    # A live process with the daemon's pid and another start is a stranger, and so is its group.
    ours = bool(pid) and (pid not in rows or rows[pid].start == start)
    mark = f"{MARK}={spec.sandbox_id}".encode()
    inside = os.path.realpath(spec.directory) + os.sep
    roots = {p for p, s in (seen or {}).items() if p in rows and rows[p].start == s}
    for row in rows.values():
        if (
            (ours and pid in (row.pid, row.group, row.session))
            or mark in processes.environment(row.pid)
            or (not row.has_terminal and f"{processes.directory(row.pid)}/".startswith(inside))
        ):
            roots.add(row.pid)
    spared = processes.ancestors(rows, os.getpid())
    return [rows[p] for p in processes.descendants(rows, roots - spared) if p not in spared]
