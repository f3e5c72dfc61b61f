"""What stays on this machine, taken out of the one thing that is sent as free text: reasons.

A daemon's last words, or the operating system's, may name a path or repeat a setting. Everything in the
configuration that is not advertised is local, whatever provider it is for: it is replaced before a reason
leaves. Longer texts first, so that a path goes before the directory it is in. Where a text was cut, what
is left of a local one beside the cut goes too; hence cuts are made by `head` and `tail`, which mark them.
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
CUT: Final = "…"
REASON_LENGTH_MAX: Final = 500


def head(text: str, length: int) -> str:
    """The beginning of a text that may hold something local."""
    return text if len(text) <= length else text[: length - 1] + CUT


def tail(text: str, length: int) -> str:
    """The end of one."""
    return text if len(text) <= length else CUT + text[1 - length :]


class Privacy:
    """Built once from the configuration."""

    def __init__(self, config: HostConfig, state_dir: Path) -> None:
        texts = {str(state_dir), str(Path(state_dir).resolve()), config.credential_file}
        texts |= {text for pool in config.pools for text in _local(pool)}
        whole = {text.strip() for text in texts}
        longest = sorted((t for t in whole if len(t) >= LENGTH_MIN), key=len, reverse=True)
        self._longest = longest
        # As words of their own: `retire` as a setting must not spoil `retired` in a sentence.
        self._local = re.compile(
            "|".join(rf"(?<![A-Za-z0-9]){re.escape(t)}(?![A-Za-z0-9])" for t in longest)
        )

    def clean(self, text: str) -> str:
        """The text without anything local."""
        first, *others = self._local.sub(LOCAL, text).split(CUT)
        for part in others:
            first = self._without_beginning(first) + CUT + self._without_end(part)
        return first

    def _without_beginning(self, text: str) -> str:
        """A text that was cut at its end, without the first part of something local there."""
        for local in self._longest:
            for length in range(len(local) - 1, LENGTH_MIN - 1, -1):
                if text.endswith(local[:length]):
                    return text[:-length] + LOCAL
        return text

    def _without_end(self, text: str) -> str:
        """A text that was cut at its beginning, without the last part of something local there."""
        for local in self._longest:
            for length in range(len(local) - 1, LENGTH_MIN - 1, -1):
                if text.startswith(local[-length:]):
                    return LOCAL + text[length:]
        return text

    def reason(self, text: str) -> str:
        """A reason as it may leave, of bounded length."""
        return self.clean(text)[:REASON_LENGTH_MAX]

    def outgoing(self, message: Upstream) -> Upstream:
        """The message as it may leave."""
        if isinstance(message, LeaseResult | InstanceExited):
            return msgspec.structs.replace(message, reason=self.reason(message.reason))
        if isinstance(message, Hello):
            instances = [
                msgspec.structs.replace(each, reason=self.reason(each.reason))
                for each in message.instances
            ]
            pools = [
                msgspec.structs.replace(each, unavailable=self.reason(each.unavailable))
                for each in message.pools
            ]
            return msgspec.structs.replace(message, instances=instances, pools=pools)
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
