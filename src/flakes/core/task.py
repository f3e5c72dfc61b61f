"""A task's life as data: its states, and the one table of moves between them.

Everything that may change a task's state is in `TRANSITIONS`; a pair that is missing there is
refused, whoever asks. The store applies the same table with set-based statements, and a test holds
the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from flakes.core import retry
from flakes.core.limits import INFRASTRUCTURE_RETRIES_MAX


class TaskStatus(StrEnum):
    """Where a task is; the last three are terminal."""

    SAVED = "SAVED"
    BLOCKED = "BLOCKED"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class TaskEvent(StrEnum):
    """What happens to a task."""

    ADMITTED_READY = "admitted_ready"
    ADMITTED_BLOCKED = "admitted_blocked"
    UNBLOCKED = "unblocked"
    DEPENDENCY_FAILED = "dependency_failed"
    DEPENDENCY_CANCELLED = "dependency_cancelled"
    ACCEPTED = "accepted"
    YIELDED = "yielded"
    WAIT_SETTLED = "wait_settled"
    REQUEUED = "requeued"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRIED_READY = "retried_ready"
    RETRIED_BLOCKED = "retried_blocked"


S, E = TaskStatus, TaskEvent

TRANSITIONS: Final[dict[tuple[TaskStatus, TaskEvent], TaskStatus]] = {
    (S.SAVED, E.ADMITTED_READY): S.QUEUED,
    (S.SAVED, E.ADMITTED_BLOCKED): S.BLOCKED,
    (S.SAVED, E.CANCELLED): S.CANCELLED,
    (S.BLOCKED, E.UNBLOCKED): S.QUEUED,
    (S.BLOCKED, E.DEPENDENCY_FAILED): S.FAILED,
    (S.BLOCKED, E.DEPENDENCY_CANCELLED): S.CANCELLED,
    (S.BLOCKED, E.CANCELLED): S.CANCELLED,
    (S.QUEUED, E.ACCEPTED): S.RUNNING,
    (S.QUEUED, E.FAILED): S.FAILED,
    (S.QUEUED, E.CANCELLED): S.CANCELLED,
    (S.RUNNING, E.REQUEUED): S.QUEUED,
    (S.RUNNING, E.YIELDED): S.WAITING,
    (S.RUNNING, E.SUCCEEDED): S.SUCCEEDED,
    (S.RUNNING, E.FAILED): S.FAILED,
    (S.RUNNING, E.CANCELLED): S.CANCELLED,
    (S.WAITING, E.WAIT_SETTLED): S.QUEUED,
    (S.WAITING, E.FAILED): S.FAILED,
    (S.WAITING, E.CANCELLED): S.CANCELLED,
    (S.FAILED, E.RETRIED_READY): S.QUEUED,
    (S.FAILED, E.RETRIED_BLOCKED): S.BLOCKED,
    (S.CANCELLED, E.RETRIED_READY): S.QUEUED,
    (S.CANCELLED, E.RETRIED_BLOCKED): S.BLOCKED,
}

TERMINAL: Final = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED})
LIVE: Final = frozenset({S.BLOCKED, S.QUEUED, S.RUNNING, S.WAITING})


@dataclass(frozen=True, slots=True)
class IllegalMove:
    """A refused transition: the state did not change."""

    status: TaskStatus
    event: TaskEvent


def step(status: TaskStatus, event: TaskEvent) -> TaskStatus | IllegalMove:
    """The state after `event`, or a refusal when the table has no such move."""
    return TRANSITIONS.get((status, event)) or IllegalMove(status, event)


class Outcome(StrEnum):
    """How an attempt ended, as its sandbox (or the loss of it) reports."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRYABLE = "retryable"
    """The work itself asked for another try (exit code 75)."""
    YIELDED = "yielded"
    """It has asked to wait for something, and gives up its slot meanwhile."""
    CANCELLED = "cancelled"
    LOST = "lost"
    """The infrastructure failed under it: a dead sandbox, host or daemon."""
    DECLINED = "declined"
    """The sandbox could not take it; nothing was started."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """What a task has spent and may spend. Losses never use up the user's attempts."""

    attempt: int
    """Attempts that ended with the user's own failure, plus the current one; from 1."""
    attempts_max: int
    losses: int
    backoff_s: float
    backoff_s_max: float
    attempts_asked: int = 1
    """What its retry policy says. A retry by hand grants as many again, on top of those it had."""
    not_taken: int = 0
    """Offers in a row before this one that no sandbox took."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the end of an attempt means for its task."""

    event: TaskEvent
    delay_s: float = 0.0
    """How long a requeued task waits before it may be placed again."""
    counts_as_loss: bool = False
    counts_as_attempt: bool = False


RETRYABLE_ATTEMPTS: Final = 3
"""Attempts that exit code 75 gets when the task asks for no retries of its own."""


def judge(
    outcome: Outcome,
    attempts: Attempts,
    *,
    cancel_requested: bool,
    jitter: float,
    taken: bool = True,
) -> Verdict:
    """Decide what an attempt's end does to its task.

    `jitter` is a number in [0, 1) from the caller. `taken` says whether a sandbox had accepted it: an
    offer that nobody took costs nothing but time. A requested cancel wins over every outcome but
    success: work that was finished before the cancel arrived is not thrown away.
    """
    if outcome is Outcome.SUCCEEDED:
        return Verdict(E.SUCCEEDED)
    if cancel_requested or outcome is Outcome.CANCELLED:
        return Verdict(E.CANCELLED)
    if outcome is Outcome.YIELDED:
        return Verdict(E.YIELDED)
    if outcome is Outcome.LOST and not taken:
        delay_s = retry.backoff_s(attempts.not_taken + 1, 1.0, 60.0, jitter)
        return Verdict(E.REQUEUED, delay_s=delay_s)
    if outcome in (Outcome.LOST, Outcome.DECLINED):
        if attempts.losses >= INFRASTRUCTURE_RETRIES_MAX:
            return Verdict(E.FAILED)
        # The first loss is free of delay: the reason is elsewhere and the work should move on.
        delay_s = 0.0 if attempts.losses == 0 else retry.backoff_s(attempts.losses, 1.0, 60.0, jitter)
        return Verdict(E.REQUEUED, delay_s=delay_s, counts_as_loss=True)
    limit = attempts.attempts_max
    if outcome is Outcome.RETRYABLE and attempts.attempts_asked == 1:
        limit += RETRYABLE_ATTEMPTS - 1
    if attempts.attempt >= limit:
        return Verdict(E.FAILED)
    delay_s = retry.backoff_s(attempts.attempt, attempts.backoff_s, attempts.backoff_s_max, jitter)
    return Verdict(E.REQUEUED, delay_s=delay_s, counts_as_attempt=True)


def withdrawn(*, cancel_requested: bool) -> Verdict:
    """What taking an offer back, that nobody had accepted, does to its task: nothing was lost."""
    return Verdict(E.CANCELLED if cancel_requested else E.REQUEUED)
