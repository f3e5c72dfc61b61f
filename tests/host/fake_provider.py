"""A provider that does what a test scripts: launches well, fails, is slow, or whose daemon dies."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

from flakes.host.providers.base import Handle, LaunchError, LaunchSpec
from flakes.wire.config import PoolConfig, SandboxConfig


class Machine:
    """What outlives a provider object, as processes outlive a host: its pretended daemons."""

    def __init__(self) -> None:
        self.daemons: dict[str, int | None] = {}
        """Exit code by name; None while it runs."""
        self.specs: dict[str, LaunchSpec] = {}
        self.changed = asyncio.Condition()
        self.numbers = itertools.count(1)

    async def end(self, name: str, code: int) -> None:
        async with self.changed:
            if self.daemons.get(name, 0) is None:
                self.daemons[name] = code
            self.changed.notify_all()


class FakeProvider:
    """`script` is taken from the front, one word a launch: `ok`, `fail`, `slow`, `die`; then `ok`."""

    name = "fake"
    isolation = "pretended"

    def __init__(self, machine: Machine, script: Sequence[str] = (), *, slow_s: float = 0.3) -> None:
        self.machine = machine
        self.script = list(script)
        self.slow_s = slow_s

    def check(self, pool: PoolConfig, where: str, hidden: Sequence[Path]) -> None:
        return

    async def unavailable(self, pool: PoolConfig) -> str:
        return "scripted" if pool.env.get("FAKE") == "unavailable" else ""

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
        word = self.script.pop(0) if self.script else "ok"
        if word == "slow":
            await asyncio.sleep(self.slow_s)
        if word == "fail":
            raise LaunchError("scripted to fail")
        name = f"fake-{next(self.machine.numbers)}"
        self.machine.daemons[name] = 3 if word == "die" else None
        self.machine.specs[name] = spec
        spec.log.write_text(f"{name} was launched\n")
        return Handle(spec, 0, name)

    async def adopt(self, spec: LaunchSpec, pid: int, start: str) -> Handle | None:
        for name, known in self.machine.specs.items():
            alive = self.machine.daemons[name] is None
            if alive and known.instance_id == spec.instance_id and start in ("", name):
                return Handle(spec, 0, name)
        return None

    async def wait_exit(self, handle: Handle) -> int | None:
        async with self.machine.changed:
            await self.machine.changed.wait_for(lambda: self.machine.daemons[handle.start] is not None)
        return self.machine.daemons[handle.start]

    async def stop(self, handle: Handle, grace_s: float) -> Sequence[str]:
        await self.machine.end(handle.start, 0)
        return await self.cleanup(handle.spec, handle.pid, handle.start)

    async def cleanup(self, spec: LaunchSpec, pid: int, start: str) -> Sequence[str]:
        for name, known in self.machine.specs.items():
            if known.instance_id == spec.instance_id:
                await self.machine.end(name, -9)
        return []
