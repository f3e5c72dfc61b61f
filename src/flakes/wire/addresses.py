"""Where the control plane answers: one address, or several of replicas of which any will do.

In a configuration they are a list, or one text with commas. Who uses them begins anywhere, keeps the one
that works, and turns to the next when it does not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

Addresses = str | list[str]
"""As configured: `"http://a:7733"`, `"http://a:7733, http://b:7733"`, `["http://a:7733", ...]`."""


def split(configured: Addresses) -> list[str]:
    """Each address once, in order, without a trailing slash."""
    parts = configured.split(",") if isinstance(configured, str) else configured
    cleaned = (part.strip().rstrip("/") for part in parts)
    return list(dict.fromkeys(part for part in cleaned if part)) or [""]


def is_loopback(address: str) -> bool:
    """Whether it is this machine's own: a proxy from the environment cannot reach that."""
    name = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


class Rotation:
    """The address in use. `start` spreads many users over all of them; any number will do."""

    def __init__(self, addresses: Sequence[str], start: int = 0) -> None:
        self._addresses = addresses
        self._at = start % len(addresses)

    def __len__(self) -> int:
        return len(self._addresses)

    @property
    def current(self) -> str:
        return self._addresses[self._at]

    def turn(self) -> None:
        """This one does not answer: the next, in a circle."""
        self._at = (self._at + 1) % len(self._addresses)
