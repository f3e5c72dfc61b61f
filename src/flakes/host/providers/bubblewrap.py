"""Provider `bubblewrap`: the daemon is an ordinary process, and puts each task into Linux namespaces.

What the daemon does with it is in `flakes.sandbox.isolation`; here is the host's part: the pool's settings become
the daemon's `isolation`, and a machine on which bubblewrap cannot work says so before anything is launched, with
the system's own reason. There is no fallback to less.

The daemon is launched, found again and cleared away exactly as by `process`.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from flakes.core import egress
from flakes.core import isolation as labels
from flakes.host.privacy import head
from flakes.host.providers.base import (
    Handle,
    LaunchError,
    LaunchSpec,
    bounds,
    check_executable,
    check_shown,
    refuse_fields,
)
from flakes.host.providers.process import ProcessProvider
from flakes.wire import config as configuration
from flakes.wire.config import PoolConfig, SandboxConfig
from flakes.wire.errors import ApiError

PROGRAM = "bwrap"
TRIAL_S = 20.0
REASON_LENGTH_MAX = 300


class BubblewrapProvider(ProcessProvider):
    name = "bubblewrap"
    isolation = labels.label("bubblewrap")

    def check(self, pool: PoolConfig, where: str, hidden: Sequence[Path]) -> None:
        refuse_fields(pool, where, ("network", "read_only", "executable_paths"))
        for text in pool.network.allow:
            try:
                egress.parse(text)
            except ValueError as error:
                raise ApiError(
                    "config_invalid",
                    f"{where}.network.allow: {error}",
                    'write for example "pypi.org", "git.example.com:8443" or "*.example.com"',
                ) from None
        for path in pool.read_only:
            check_shown(path, f"{where}.readOnly", hidden)
        for name, path in pool.executable_paths.items():
            check_executable(path, f"{where}.executablePaths.{name}")
        bounds(pool, where)

    async def unavailable(self, pool: PoolConfig) -> str:
        return await _trial(pool.executable_paths.get(PROGRAM, PROGRAM))

    def arrange(
        self,
        pool: PoolConfig,
        sandbox: SandboxConfig,
        daemon_argv: tuple[str, ...],
        directory: Path,
        hidden: Sequence[Path],
    ) -> tuple[tuple[str, ...], SandboxConfig]:
        isolation = msgspec.structs.replace(
            bounds(pool, pool.pool_key),
            kind="bubblewrap",
            executable=pool.executable_paths.get(PROGRAM, PROGRAM),
            read_only=pool.read_only,
            hidden=[str(path) for path in hidden],
            network_allow=pool.network.allow,
        )
        argv, _ = super().arrange(pool, sandbox, daemon_argv, directory, hidden)
        return argv, msgspec.structs.replace(sandbox, isolation=isolation)

    async def launch(self, spec: LaunchSpec) -> Handle:
        try:
            sandbox = configuration.load(spec.directory / "sandbox.toml", SandboxConfig)
        except ApiError as error:
            raise LaunchError(error.message) from error
        reason = await _trial(sandbox.isolation.executable)
        if sandbox.isolation.kind != self.name or reason:
            raise LaunchError(reason or "the sandbox's configuration names no isolation")
        return await super().launch(spec)


async def _trial(program: str) -> str:
    """Make the namespaces that tasks get, once; why that does not work, or nothing."""
    if sys.platform != "linux":
        return "bubblewrap needs Linux"
    found = shutil.which(program)
    if found is None:
        return (
            f"`{program}` is not on this machine; on Debian and Ubuntu: apt-get install bubblewrap"
        )
    try:
        process = await asyncio.create_subprocess_exec(
            found,
            *labels.TRIAL,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return f"`{found}` cannot be started: {error.strerror}"
    try:
        _, said = await asyncio.wait_for(process.communicate(), TRIAL_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"`{found}` did not end within {TRIAL_S:g} s"
    if process.returncode == 0:
        return ""
    text = head(said.decode("utf-8", "replace").strip(), REASON_LENGTH_MAX)
    return f"bubblewrap cannot isolate here: {text or f'exit code {process.returncode}'}"
