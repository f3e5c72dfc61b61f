"""Sandbox instances: their states and moves as a table, what blocks a delete, and the pace of clean-ups.

A host launches an instance, a daemon of it connects, and in the end the host says that nothing of it is
left. Whether something may be left is a fact of its own, beside the state: a launch that timed out has
failed, and may still have left a process behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final, cast


class InstanceState(StrEnum):
    PENDING_LAUNCH = "pending_launch"
    """Asked for; the host was not told yet."""
    LAUNCHING = "launching"
    RUNNING = "running"
    DRAINING = "draining"
    """Takes nothing new, finishes what it has, then ends."""
    STOPPING = "stopping"
    """The host is to end it now."""
    STOPPED = "stopped"
    FAILED = "failed"
    """It never came to run."""
    EXPIRED = "expired"
    """Silent for too long; welcome again should it come back."""
    CANCELLED = "cancelled"
    """Given up before the host was told."""
    DELETING = "deleting"
    """Its owner deleted it; the row goes once the host has cleaned up."""


class InstanceEvent(StrEnum):
    SENT = "sent"
    """Its launch was sent to the host."""
    CONNECTED = "connected"
    FAILED = "failed"
    """The launch failed, or nothing came of it in time."""
    DRAIN = "drain"
    STOP = "stop"
    SILENT = "silent"
    GONE = "gone"
    """The host says that nothing of it is left."""
    DELETE = "delete"


S = InstanceState
E = InstanceEvent

REMOVED: Final = None
"""In place of a state: the row goes."""

MOVES: Final[dict[InstanceEvent, dict[InstanceState, InstanceState | None]]] = {
    E.SENT: {S.PENDING_LAUNCH: S.LAUNCHING},
    E.CONNECTED: {
        S.PENDING_LAUNCH: S.RUNNING, S.LAUNCHING: S.RUNNING, S.RUNNING: S.RUNNING,
        S.DRAINING: S.DRAINING, S.STOPPING: S.STOPPING, S.EXPIRED: S.RUNNING,
    },
    E.FAILED: {S.PENDING_LAUNCH: S.FAILED, S.LAUNCHING: S.FAILED},
    E.DRAIN: {S.RUNNING: S.DRAINING},
    E.STOP: {
        S.PENDING_LAUNCH: S.CANCELLED, S.LAUNCHING: S.STOPPING, S.RUNNING: S.STOPPING,
        S.DRAINING: S.STOPPING, S.EXPIRED: S.STOPPING,
    },
    E.SILENT: {S.RUNNING: S.EXPIRED},
    E.GONE: {
        S.PENDING_LAUNCH: S.FAILED, S.LAUNCHING: S.FAILED, S.RUNNING: S.STOPPED,
        S.DRAINING: S.STOPPED, S.STOPPING: S.STOPPED, S.EXPIRED: S.STOPPED, S.DELETING: REMOVED,
    },
    E.DELETE: {
        S.RUNNING: S.DELETING, S.DRAINING: S.DELETING, S.STOPPED: S.DELETING, S.FAILED: S.DELETING,
        S.EXPIRED: S.DELETING, S.CANCELLED: S.DELETING,
    },
}  # fmt: skip
"""Event → (state → state). What is not in it changes nothing. A delete of an instance of which nothing is
left goes on to `REMOVED` at once."""

LAUNCHING: Final = (S.PENDING_LAUNCH, S.LAUNCHING)
COUNTED: Final = (S.PENDING_LAUNCH, S.LAUNCHING, S.RUNNING, S.DRAINING, S.STOPPING)
"""What counts against a pool's maximum. A silent one does not: it is ended before its place is taken."""
CLEANED: Final = (S.STOPPING, S.STOPPED, S.FAILED, S.CANCELLED, S.DELETING)
"""Where the host is asked, again and again, to leave nothing behind."""
TERMINAL: Final = (S.STOPPED, S.FAILED, S.CANCELLED)

CLEANUP_BACKOFF_S: Final = 5.0
CLEANUP_BACKOFF_MAX_S: Final = 600.0


def step(state: InstanceState, event: InstanceEvent) -> InstanceState | None:
    """The state after an event; the same where the table has no such move; None when the row goes."""
    return MOVES[event].get(state, state)


def sources(event: InstanceEvent) -> list[str]:
    """The states that an event moves, for statements."""
    return [str(state) for state in MOVES[event]]


def moves(event: InstanceEvent) -> tuple[list[str], list[str]]:
    """The table of one event as two columns, from and to; removals left out."""
    pairs = [(str(a), str(b)) for a, b in MOVES[event].items() if b is not None]
    return [a for a, _ in pairs], [b for _, b in pairs]


def delete_blockers(
    state: InstanceState, *, managed: bool, held: bool, live: bool, accepted: int
) -> list[str]:
    """What stands against deleting an instance. `managed`: a host launched it. `held`: something of it
    may be left there. `live`: its daemon is connected. `accepted`: assignments that it runs."""
    blockers: list[str] = []
    if managed and state in (S.PENDING_LAUNCH, S.LAUNCHING, S.STOPPING):
        blockers.append("unsafe_status")
    if live:
        blockers.append("live_sandbox")
    if accepted:
        blockers.append("accepted_running_assignments")
    if held and not managed:
        # The host that launched it is gone from the records: nobody could clean up.
        blockers.append("provider_cleanup_required")
    return blockers


def host_delete_blockers(*, credentials: int, leases: int, instances: int) -> list[str]:
    """What stands against deleting a host: usable credentials, unanswered leases, and instances that
    are not over or may have left something behind."""
    counted = (
        ("active_credentials", credentials),
        ("active_leases", leases),
        ("nonterminal_instances", instances),
    )
    return [name for name, count in counted if count]


def cleanup_backoff_s(attempts: int) -> float:
    """The pause after that many failed or unanswered clean-ups."""
    return min(CLEANUP_BACKOFF_MAX_S, CLEANUP_BACKOFF_S * 2.0 ** max(0, min(attempts, 20) - 1))


_LOCAL_WORDS: Final = frozenset(
    {"runtime", "adapter", "path", "env", "environment", "image", "provider", "status"}
)
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def local_keys(metadata: object, at: str = "metadata") -> Iterator[str]:
    """Paths of keys, at any depth, that name what a host keeps to itself or reports by itself."""
    if isinstance(metadata, dict):
        for key, value in cast("dict[str, Any]", metadata).items():
            words = {word.lower().removesuffix("s") for word in _WORD.findall(key)}
            words |= {word.lower() for word in _WORD.findall(key)}
            if words & _LOCAL_WORDS:
                yield f"{at}.{key}"
            yield from local_keys(value, f"{at}.{key}")
    elif isinstance(metadata, list):
        for index, value in enumerate(cast("list[Any]", metadata)):
            yield from local_keys(value, f"{at}[{index}]")
