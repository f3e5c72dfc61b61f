"""The coding agents of this machine as pools, so that a host that offers them needs no section for each.

With `offerAgents`, an agent that is on the host's PATH under its usual name has a pool `local-<name>`, unless a
pool of the configuration has that adapter already. Keys that the agents take from the environment are passed
on to them: tasks see nothing else of the host's own.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping

import msgspec

from flakes.agents.registry import AGENTS
from flakes.core.limits import POOLS_PER_HOST_MAX
from flakes.wire.config import HostConfig, PoolConfig


def with_agents(config: HostConfig, env: Mapping[str, str] = os.environ) -> HostConfig:
    """The configuration with the pools of the agents that are here, if it offers them."""
    if not config.offer_agents:
        return config
    adapters = {pool.adapter for pool in config.pools}
    keys = {pool.pool_key for pool in config.pools}
    found = [
        _pool(name, {key: env[key] for key in about.keys if env.get(key)})
        for name, about in AGENTS.items()
        if name not in adapters and f"local-{name}" not in keys
        and shutil.which(name, path=env.get("PATH"))
    ]  # fmt: skip
    pools = [*config.pools, *found][: max(len(config.pools), POOLS_PER_HOST_MAX)]
    return msgspec.structs.replace(config, pools=pools)


def _pool(name: str, env: dict[str, str]) -> PoolConfig:
    return PoolConfig(
        pool_key=f"local-{name}", adapter=name, env=env, max_concurrency=max(2, os.cpu_count() or 1),
        advertised_capabilities=[name, sys.platform],
    )  # fmt: skip
