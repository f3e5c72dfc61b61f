"""A network of our own: one switch and machines with addresses on it, each in its network namespace.

Needs root (or the capabilities for it) and iproute2; `why_not` says what is missing. Cables are cut at the switch, so
that a machine sees what it would see: no carrier, and no packet.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNET = 0x40000000


def _ip(*words: str) -> str:
    ran = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    if ran.returncode:
        raise OSError(f"ip {' '.join(words)}: {ran.stderr.strip()}")
    return ran.stdout


def why_not() -> str | None:
    """Why there can be no such network here; None when there can."""
    try:
        with network("probe"):
            return None
    except OSError as error:
        return f"no network namespaces with a bridge here: {error}"


class Network:
    """Machines by name. The first address is .1."""

    def __init__(self, tag: str) -> None:
        self._tag = f"flk{secrets.token_hex(2)}{tag[:6]}"
        self._switch = f"{self._tag}-sw"
        self._namespaces: list[str] = []
        self._addresses: dict[str, str] = {}

    def open(self) -> None:
        self._add(self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")

    def plug(self, name: str) -> str:
        """A machine with a cable to the switch; its address."""
        space = self._space(name)
        self._add(space)
        _ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", f"port-{name}",
            "netns", self._switch)  # fmt: skip
        _ip("-n", self._switch, "link", "set", f"port-{name}", "master", "switch", "up")
        address = f"10.77.0.{len(self._addresses) + 1}"
        _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        self._addresses[name] = address
        return address

    def cut(self, name: str) -> None:
        _ip("-n", self._switch, "link", "set", f"port-{name}", "down")

    def mend(self, name: str) -> None:
        _ip("-n", self._switch, "link", "set", f"port-{name}", "up")

    def prefix(self, name: str) -> list[str]:
        """The command that runs another on this machine."""
        return ["ip", "netns", "exec", self._space(name)]

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread, and every thread and process that it starts, on that machine."""
        libc = ctypes.CDLL(None, use_errno=True)
        with (
            Path("/proc/thread-self/ns/net").open("rb") as home,
            Path(f"/run/netns/{self._space(name)}").open("rb") as there,
        ):
            if libc.setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                assert libc.setns(home.fileno(), CLONE_NEWNET) == 0

    def close(self) -> None:
        for space in reversed(self._namespaces):
            _ip("netns", "del", space)

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _add(self, space: str) -> None:
        _ip("netns", "add", space)
        self._namespaces.append(space)
        _ip("-n", space, "link", "set", "lo", "up")


@contextlib.contextmanager
def network(tag: str) -> Iterator[Network]:
    """A network that is gone afterwards. `OSError` when there can be none."""
    if os.geteuid() != 0:
        raise OSError("not root")
    made = Network(tag)
    try:
        made.open()
        yield made
    finally:
        made.close()
