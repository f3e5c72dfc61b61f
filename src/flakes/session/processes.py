"""Processes of a session: which are really there, and ending them for certain.

They are known by their identity, the pid together with the moment it started. A zombie counts as gone: it
runs nothing and holds nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flakes.processes import command_lines, is_alive, read
from flakes.processes import send as send_to

POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for all time. `start` is opaque and comparable on this machine only."""

    pid: int
    start: str


@dataclass(frozen=True, slots=True)
class Found:
    """A process of a session: what it is (`server`, `sandbox`, ...), and who."""

    role: str
    identity: Identity
    command: str


def identity_of(pid: int) -> Identity | None:
    """The identity of a living process, or None."""
    found = read(pid)
    return None if found is None or found.zombie else Identity(pid, found.start)


def alive(identity: Identity) -> bool:
    """Whether this very process still runs."""
    return is_alive(identity.pid, identity.start)


def wait_gone(identities: Iterable[Identity], timeout_s: float) -> list[Identity]:
    """Wait until all have ended; those that have not after `timeout_s` are returned."""
    deadline = time.monotonic() + timeout_s
    left = [one for one in identities if alive(one)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = [one for one in left if alive(one)]
    return left


def send(identity: Identity, number: signal.Signals) -> None:
    """Signal this very process; nothing happens when it is gone or not ours."""
    send_to(identity.pid, identity.start, number)


def of_session(root: Path, exclude: Collection[int] = ()) -> list[Found]:
    """Every process that works for the session in `root`, by its command line.

    Programs of ours and PostgreSQL name a path under `root` among their arguments; an editor or a
    `tail` that does so too is not theirs, and is left alone.
    """
    found: list[Found] = []
    prefix = f"{root}{os.sep}"
    mine = {os.getpid(), *exclude}
    for pid, argv in command_lines():
        # Compared as text, because `ps` does not tell where an argument with spaces ends.
        command = " ".join(argv)
        if pid in mine or not (f" {prefix}" in command or f" {root} " in f"{command} "):
            continue
        role = _role(argv)
        identity = identity_of(pid) if role else None
        if role and identity:
            found.append(Found(role, identity, command))
    return sorted(found, key=lambda one: (_ORDER.index(one.role), one.identity.pid))


_ORDER: Final = ("supervisor", "host", "sandbox", "server", "postgresql")
"""Also the order of ending: whoever restarts the others first, the database last."""

STOP_GRACE_S: Final = {
    "supervisor": 70.0, "host": 20.0, "sandbox": 15.0, "server": 20.0, "postgresql": 20.0,
}  # fmt: skip


def stop(found: Collection[Found]) -> list[Found]:
    """End these, role by role: politely, then not. Returns those that survived even that."""
    survivors: list[Found] = []
    for role in _ORDER:
        group = [one for one in found if one.role == role]
        # PostgreSQL takes SIGINT as "disconnect everybody and shut down cleanly".
        polite = signal.SIGINT if role == "postgresql" else signal.SIGTERM
        for one in group:
            send(one.identity, polite)
        left = wait_gone([one.identity for one in group], STOP_GRACE_S[role])
        # ... and SIGQUIT as "stop at once, recover at the next start"; SIGKILL would leave its children.
        harsh = signal.SIGQUIT if role == "postgresql" else signal.SIGKILL
        for identity in left:
            send(identity, harsh)
        left = wait_gone(left, 5.0)
        survivors += [one for one in group if one.identity in left]
    return survivors


def _role(argv: list[str]) -> str | None:
    program = Path(argv[0]).name
    if program in ("postgres", "initdb", "pg_ctl"):
        return "postgresql"
    if "flakes" not in program and "python" not in program.lower():
        return None
    # `python -m flakes.NAME ...` or `python .../bin/flakes NAME ...`
    words = argv[1:8]
    for module, role in _MODULES.items():
        if module in words:
            return role
    for index, word in enumerate(words):
        if Path(word).name == "flakes" and index + 1 < len(words):
            return _COMMANDS.get(words[index + 1])
    return _COMMANDS.get(words[0]) if words and program == "flakes" else None


_MODULES: Final = {
    "flakes.session": "supervisor",
    "flakes.server": "server",
    "flakes.host": "host",
    "flakes.sandbox": "sandbox",
}
_COMMANDS: Final = {"server": "server", "host": "host", "sandbox": "sandbox"}
