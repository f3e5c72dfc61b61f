"""What stays on this machine, taken out of the one thing that is sent as free text: reasons.

A daemon's last words, or the operating system's, may name a path or repeat a setting. Everything in the
configuration that is not advertised is local, whatever provider it is for: it is replaced before a reason
leaves. Longer texts first, so that a path goes before the directory it is in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from flakes.wire.config import HostConfig, PoolConfig
from flakes.wire.host_stream import Hello, InstanceExited, LeaseResult, Upstream

ADVERTISED: Final = frozenset(
    {
        "pool_key", "provider", "adapter", "max_instances", "max_concurrency",
        "advertised_capabilities", "resource_bounds",
    }
)  # fmt: skip
"""Fields of a pool that leave the machine; every other one stays, also those added later."""
LENGTH_MIN: Final = 4
"""Shorter settings are no secrets, and parts of many words."""
LOCAL: Final = "[local]"


class Privacy:
    """Built once from the configuration."""

    def __init__(self, config: HostConfig, state_dir: Path) -> None:
        texts = {str(state_dir), str(Path(state_dir).resolve()), config.credential_file}
        texts |= {text for pool in config.pools for text in _local(pool)}
        whole = {text.strip() for text in texts}
        longest = sorted((t for t in whole if len(t) >= LENGTH_MIN), key=len, reverse=True)
        # As words of their own: `retire` as a setting must not spoil `retired` in a sentence.
        self._local = re.compile(
            "|".join(rf"(?<![A-Za-z0-9]){re.escape(t)}(?![A-Za-z0-9])" for t in longest)
        )

    def clean(self, text: str) -> str:
        """The text without anything local."""
        return self._local.sub(LOCAL, text)

    def outgoing(self, message: Upstream) -> Upstream:
        """The message as it may leave."""
        if isinstance(message, LeaseResult | InstanceExited):
            return msgspec.structs.replace(message, reason=self.clean(message.reason))
        if isinstance(message, Hello):
            instances = [
                msgspec.structs.replace(each, reason=self.clean(each.reason))
                for each in message.instances
            ]
            return msgspec.structs.replace(message, instances=instances)
        return message


def _local(pool: PoolConfig) -> Iterator[str]:
    for field in msgspec.structs.fields(pool):
        if field.name not in ADVERTISED:
            yield from _texts(msgspec.to_builtins(getattr(pool, field.name)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        # Parts of `outside:inside`, as mounts are written.
        yield from value.split(":")
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
