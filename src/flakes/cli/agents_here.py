"""The agents of this machine, as `flakes doctor` tells of them: found or not, tested or not, signed in or not."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flakes.agents.base import Check, Installation
from flakes.agents.registry import AGENTS, DRIVERS, driver_for
from flakes.wire.config import HostConfig, PoolConfig, load


@dataclass(frozen=True, slots=True)
class Here:
    """One agent, of a pool of the configuration or by its usual name. `needed`: somebody named it."""

    adapter: str
    check: Check
    needed: bool
    pool: str = ""
    own_command: bool = False

    def told(self) -> dict[str, Any]:
        """As JSON."""
        found = self.check
        return {
            "adapter": self.adapter, "pool": self.pool or None, "needed": self.needed, "found": found.usable,
            "version": found.version or None, "tested": found.usable and not found.message,
            "signedIn": found.signed_in, "command": list(found.command), "message": found.message or None,
            "fix": found.fix or None,
        }  # fmt: skip


def host_config(path: Path, *, must_exist: bool) -> HostConfig | None:
    """The host's configuration; None when there is none and none is asked for. Raises `config_invalid`."""
    return load(path, HostConfig) if must_exist or path.exists() else None


def look(config: HostConfig | None, adapters: tuple[str, ...]) -> list[Here]:
    """Those that pools name, those that are asked for, and the others that are known by name."""
    return asyncio.run(_look(config, adapters))


async def _look(config: HostConfig | None, adapters: tuple[str, ...]) -> list[Here]:
    pools = [pool for pool in config.pools if _converses(pool.adapter)] if config else []
    named = [name for name in dict.fromkeys(adapters) if name not in {pool.adapter for pool in pools}]
    others = [name for name in AGENTS if name not in {*named, *(pool.adapter for pool in pools)}]
    return list(await asyncio.gather(
        *(_of_pool(pool) for pool in pools),
        *(_by_name(name, needed=True) for name in named),
        *(_by_name(name, needed=False) for name in others),
    ))  # fmt: skip


async def _of_pool(pool: PoolConfig) -> Here:
    directory = pool.agent.config_dir
    installation = Installation(
        tuple(pool.agent.command), Path(directory) if directory else None, {**os.environ, **pool.env}
    )
    found = await _check(pool.adapter, installation)
    return Here(pool.adapter, found, True, pool.pool_key, bool(pool.agent.command))


async def _by_name(name: str, *, needed: bool) -> Here:
    return Here(name, await _check(name, Installation(env=os.environ)), needed)


async def _check(adapter: str, installation: Installation) -> Check:
    driver = driver_for(adapter)
    if driver is None:
        known = ", ".join(DRIVERS)
        return Check(False, message=f"there is no adapter `{adapter}`", fix=f"one of {known}")
    return await driver.check(installation)


def _converses(adapter: str) -> bool:
    """Whether a pool's adapter is an agent, or something that nobody knows."""
    driver = driver_for(adapter)
    return driver is None or driver.capabilities().converses
