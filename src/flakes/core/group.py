"""When several tasks together are done: the join rules, and what counts of ended tasks mean by them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class GroupStatus(StrEnum):
    """Where a group is. The last four are settled: waiting for it is over."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ABANDONED = "ABANDONED"
    CANCELLED = "CANCELLED"


SETTLED: Final = frozenset(
    {GroupStatus.SUCCEEDED, GroupStatus.FAILED, GroupStatus.ABANDONED, GroupStatus.CANCELLED}
)


class JoinRule(StrEnum):
    """What has to happen to the members. `threshold` is for waits on children only."""

    ALL_SUCCESS = "all_success"
    """Every member succeeds; the first that does not fails the whole."""
    ALL_SETTLED = "all_settled"
    """Every member ends, in whatever way."""
    FIRST = "first"
    """One member succeeds."""
    QUORUM = "quorum"
    """As many members as asked for succeed."""
    THRESHOLD = "threshold"
    """As many members as asked for end, in whatever way."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Members, and how those that have ended did so."""

    total: int
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled

    @property
    def live(self) -> int:
        return self.total - self.ended


def judge(rule: JoinRule, needed: int | None, counts: Counts) -> GroupStatus | None:
    """`SUCCEEDED` or `FAILED` as soon as nothing that may still happen changes it; None before.

    `needed` is the number of `quorum` and `threshold`. No member may be added any more.
    """
    if rule is JoinRule.ALL_SUCCESS:
        if counts.failed or counts.cancelled:
            return GroupStatus.FAILED
        return GroupStatus.SUCCEEDED if counts.live == 0 else None
    if rule is JoinRule.ALL_SETTLED:
        return GroupStatus.SUCCEEDED if counts.live == 0 else None
    wanted = 1 if rule is JoinRule.FIRST else needed or 1
    reached = counts.ended if rule is JoinRule.THRESHOLD else counts.succeeded
    if reached >= wanted:
        return GroupStatus.SUCCEEDED
    return GroupStatus.FAILED if reached + counts.live < wanted else None


def can_settle(rule: JoinRule, needed: int | None, total: int) -> bool:
    """Whether any outcome of so many members would be a success."""
    return judge(rule, needed, Counts(total, succeeded=total)) is GroupStatus.SUCCEEDED
