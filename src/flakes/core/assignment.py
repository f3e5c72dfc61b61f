"""An assignment is the only authority to act for a task; its states and moves as a table."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class AssignmentState(StrEnum):
    """`offered` and after it holds a slot until a terminal state is written."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    YIELDED = "yielded"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    DECLINED = "declined"


A = AssignmentState

TRANSITIONS: Final[dict[AssignmentState, frozenset[AssignmentState]]] = {
    A.OFFERED: frozenset({A.ACCEPTED, A.DECLINED, A.CANCELLED, A.LOST}),
    # A sandbox that lost its memory may decline what it had accepted before.
    A.ACCEPTED: frozenset(
        {A.YIELDED, A.SUCCEEDED, A.FAILED, A.CANCELLED, A.LOST, A.DECLINED}
    ),
    A.YIELDED: frozenset(),
    A.SUCCEEDED: frozenset(),
    A.FAILED: frozenset(),
    A.CANCELLED: frozenset(),
    A.LOST: frozenset(),
    A.DECLINED: frozenset(),
}

LIVE: Final = frozenset({A.OFFERED, A.ACCEPTED})
"""States that occupy a slot. Free slots are always derived from these, never counted apart (F07)."""
