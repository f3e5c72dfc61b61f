"""What a pool may be, and the part of it that leaves the machine.

The control plane learns a pool's name, what it can run and how much of it. Paths, environments and
everything else local stays here; `advertise` names every field that goes out, one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from flakes.core import keys
from flakes.host.providers.base import Provider
from flakes.wire.config import PoolConfig
from flakes.wire.errors import ApiError
from flakes.wire.host_stream import PoolAdvertisement

BOUNDS_MAX: Final = 16
BOUND_TEXT_LENGTH_MAX: Final = 64
_BOUND_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,39}\Z")
_BOUND_TEXT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]*\Z")


def check(
    pools: Sequence[PoolConfig], providers: Mapping[str, Provider], hidden: Sequence[Path] = ()
) -> None:
    """Refuse pools that cannot work, with `config_invalid` naming the pool and the fix. No task may be
    shown one of the `hidden` directories."""
    if not pools:
        raise ApiError(
            "config_invalid",
            "pools: the host has no pools, so it could run nothing",
            "add a [[pools]] section; `flakes config schema host` shows one",
        )
    seen: set[str] = set()
    for index, pool in enumerate(pools):
        where = f"pools[{index}]"
        if not keys.is_key(pool.pool_key):
            raise ApiError(
                "config_invalid",
                f"{where}.poolKey: `{pool.pool_key}` is not a key",
                "use lowercase letters, digits and single hyphens, such as"
                f" `{keys.key_from(pool.pool_key, 'pool')}`",
            )
        if pool.pool_key in seen:
            raise ApiError(
                "config_invalid",
                f"{where}.poolKey: `{pool.pool_key}` is there twice",
                "give every pool of the host its own poolKey",
            )
        seen.add(pool.pool_key)
        if pool.provider not in providers:
            raise ApiError(
                "config_invalid",
                f"{where}.provider: there is no provider `{pool.provider}`",
                f"use one of: {', '.join(sorted(providers))}",
            )
        _check_bounds(where, pool.resource_bounds)
        providers[pool.provider].check(pool, where, hidden)


def advertise(pool: PoolConfig, unavailable: str = "") -> PoolAdvertisement:
    """The public face of a pool that passed `check`, and why it cannot be used, if it cannot."""
    return PoolAdvertisement(
        pool_key=pool.pool_key,
        provider=pool.provider,
        adapter=pool.adapter,
        max_instances=pool.max_instances,
        max_concurrency=pool.max_concurrency,
        capabilities=pool.advertised_capabilities,
        resource_bounds=pool.resource_bounds,
        unavailable=unavailable,
    )


def _check_bounds(where: str, bounds: dict[str, Any]) -> None:
    """A small flat record of numbers and words; text that could be a path or a secret is refused."""
    if len(bounds) > BOUNDS_MAX:
        raise ApiError(
            "config_invalid",
            f"{where}.resourceBounds: {len(bounds)} entries, more than {BOUNDS_MAX}",
            "keep what the scheduler needs, such as memoryMb and cpus",
        )
    for name, value in bounds.items():
        is_text = isinstance(value, str)
        fine = isinstance(value, bool | int | float) or (
            is_text and len(value) <= BOUND_TEXT_LENGTH_MAX and bool(_BOUND_TEXT.match(value))
        )
        if not fine or not _BOUND_KEY.match(name):
            raise ApiError(
                "config_invalid",
                f"{where}.resourceBounds.{name}: only numbers, booleans and short words are sent",
                "write for example `memoryMb = 8192`; local settings belong into `env`",
            )
