"""What a sandbox may reach: the entries of `network.allow`, and whether a request fits one.

An entry is a host name, ``*.domain`` (every name below it, not itself), ``*`` (everything) or an address, with
an optional ``:port``; without one it means the ports 80 and 443. Names are compared in lower case, without a final
dot. This module decides on names; an address that a name resolved to is judged by `is_inner`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PORTS_DEFAULT: Final = (80, 443)
ENTRIES_MAX: Final = 256
_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\Z"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `host` is a name, an address, `*`, or `.domain` for everything below it."""

    host: str
    ports: tuple[int, ...]

    @property
    def may_be_inner(self) -> bool:
        """Whether it names this very machine on purpose: an address, or `localhost`."""
        return self.host == "localhost" or _address(self.host) is not None


def parse(text: str) -> Entry:
    """An entry of the list; raises `ValueError` with a sentence."""
    host, ports = text.strip().lower(), PORTS_DEFAULT
    bare_ipv6 = _address(host) is not None and ":" in host
    if not bare_ipv6 and (match := re.fullmatch(r"(.+):(\d{1,5})", host)):
        host, port = match[1], int(match[2])
        if not 0 < port < 65_536:
            raise ValueError(f"`{text}`: {port} is not a port")
        ports = (port,)
    host = host.removeprefix("[").removesuffix("]")
    host = host if host.startswith("*") else host.rstrip(".")
    if host == "*":
        return Entry("*", ports)
    if host.startswith("*."):
        if not _NAME.match(host[2:]):
            raise ValueError(
                f"`{text}` is not a host, `*.domain` or address, with or without `:port`"
            )
        return Entry(host[1:], ports)
    if _address(host) is None and not _NAME.match(host):
        raise ValueError(f"`{text}` is not a host, `*.domain` or address, with or without `:port`")
    return Entry(canonical(host), ports)


def allowing(entries: Sequence[Entry], host: str, port: int) -> Entry | None:
    """The first entry that a request to `host` (as `canonical` writes it) and `port` fits."""
    for entry in entries:
        if port in entry.ports and _fits(entry.host, host):
            return entry
    return None


def canonical(host: str) -> str:
    """The one spelling of a host: lower case, no final dot, addresses as Python writes them."""
    host = host.strip().lower().rstrip(".")
    address = _address(host)
    return str(address) if address is not None else host


def is_inner(address: str) -> bool:
    """Whether an address is this machine or its link: loopback, link-local, unspecified, multicast."""
    found = _address(address.split("%", 1)[0])
    if found is None:
        return True
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    return found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast


def _fits(pattern: str, host: str) -> bool:
    if pattern == "*":
        return True
    if pattern.startswith("."):
        return host.endswith(pattern) and _address(host) is None
    return host == pattern


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
