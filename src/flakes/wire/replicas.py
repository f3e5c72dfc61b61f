"""What replicas of the control plane say to each other: wake-ups, over the database they share.

A notice carries no state: whoever is named looks into the store. So it may come twice, late, or never,
and costs seconds then. `News` says what anybody may look at; `to` names the replicas for whose peers
something was stored.
"""

from __future__ import annotations

from typing import Final

from flakes.wire.codec import Frozen

EVENTS: Final = "events"
"""Events were written: whoever follows the log has something to read."""
READY: Final = "ready"
"""Tasks are ready, or slots free: the scheduler should look, wherever it runs."""
MOVED: Final = "moved"
"""A peer has connected to the sender: who still holds an older connection of it lets that go."""
LOGS: Final = "logs"
"""`logs:<task id>`: lines of the task were stored."""
ANSWERED: Final = "answered"
"""`answered:<permission id>`: the request is decided."""

SETTLED: Final = "settled"
"""`settled:<wait id>`: the wait is over."""


class Notice(Frozen, frozen=True, kw_only=True):
    """One notification: who says it, whom it calls, and what is new for everybody."""

    sender: str
    to: list[str] = []
    news: list[str] = []


def about(what: str, subject_id: str) -> str:
    """A piece of news with a subject."""
    return f"{what}:{subject_id}"
