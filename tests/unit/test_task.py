"""The task's transition table, the verdict on an ended attempt, and the table of assignments."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flakes.core import assignment
from flakes.core.assignment import AssignmentState
from flakes.core.limits import INFRASTRUCTURE_RETRIES_MAX
from flakes.core.task import (
    LIVE,
    RETRYABLE_ATTEMPTS,
    TERMINAL,
    TRANSITIONS,
    Attempts,
    IllegalMove,
    Outcome,
    TaskEvent,
    TaskStatus,
    Verdict,
    judge,
    step,
)

RETRIES = {TaskEvent.RETRIED_READY, TaskEvent.RETRIED_BLOCKED}
JITTER = st.floats(0.0, 1.0, exclude_max=True)
ATTEMPTS = st.builds(
    Attempts,
    attempt=st.integers(1, 120),
    attempts_max=st.integers(1, 100),
    losses=st.integers(0, INFRASTRUCTURE_RETRIES_MAX + 2),
    backoff_s=st.floats(0, 86_400),
    backoff_s_max=st.floats(0, 86_400),
    attempts_asked=st.integers(1, 100),
    not_taken=st.integers(0, 100),
)


def attempts(attempt: int = 1, maximum: int = 1, losses: int = 0, asked: int = 1) -> Attempts:
    return Attempts(
        attempt, maximum, losses, backoff_s=1.0, backoff_s_max=300.0, attempts_asked=asked
    )


def test_every_status_is_saved_live_or_terminal() -> None:
    assert {TaskStatus.SAVED} | LIVE | TERMINAL == set(TaskStatus)
    assert not LIVE & TERMINAL


def test_the_only_way_out_of_an_end_is_a_retry() -> None:
    ways_out = {(status, event) for status, event in TRANSITIONS if status in TERMINAL}
    assert {event for _, event in ways_out} == RETRIES
    assert {status for status, _ in ways_out} == {TaskStatus.FAILED, TaskStatus.CANCELLED}
    for event in TaskEvent:
        assert step(TaskStatus.SUCCEEDED, event) == IllegalMove(TaskStatus.SUCCEEDED, event)


def test_retries_move_nothing_else() -> None:
    assert {status for status, event in TRANSITIONS if event in RETRIES} == {
        TaskStatus.FAILED,
        TaskStatus.CANCELLED,
    }


def test_everything_alive_can_be_cancelled_and_only_running_work_succeeds() -> None:
    for status in LIVE | {TaskStatus.SAVED}:
        assert step(status, TaskEvent.CANCELLED) is TaskStatus.CANCELLED
    assert [s for s, e in TRANSITIONS if e is TaskEvent.SUCCEEDED] == [TaskStatus.RUNNING]


def test_every_state_is_reachable_and_every_live_state_can_end() -> None:
    reached = {TaskStatus.SAVED}
    while True:
        more = {new for (old, _), new in TRANSITIONS.items() if old in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == set(TaskStatus)
    for status in LIVE:
        seen = {status}
        while not seen & TERMINAL:
            more = {new for (old, _), new in TRANSITIONS.items() if old in seen} - seen
            assert more, f"{status} never ends"
            seen |= more


def test_a_missing_pair_is_refused_and_changes_nothing() -> None:
    for status in TaskStatus:
        for event in TaskEvent:
            answer = step(status, event)
            if (status, event) in TRANSITIONS:
                assert answer is TRANSITIONS[status, event]
            else:
                assert answer == IllegalMove(status, event)


@given(st.sampled_from(Outcome), ATTEMPTS, st.booleans(), JITTER)
def test_every_verdict_is_a_legal_move_of_running_work(
    outcome: Outcome, spent: Attempts, cancel: bool, jitter: float
) -> None:
    verdict = judge(outcome, spent, cancel_requested=cancel, jitter=jitter)
    assert isinstance(step(TaskStatus.RUNNING, verdict.event), TaskStatus)
    assert verdict.delay_s >= 0
    if verdict.event is TaskEvent.REQUEUED:
        assert verdict.counts_as_loss != verdict.counts_as_attempt
        assert verdict.counts_as_loss == (outcome in (Outcome.LOST, Outcome.DECLINED))
    else:
        assert verdict == Verdict(verdict.event)


@given(ATTEMPTS, st.booleans(), JITTER)
def test_finished_work_is_kept_even_when_a_cancel_came_too_late(
    spent: Attempts, cancel: bool, jitter: float
) -> None:
    verdict = judge(Outcome.SUCCEEDED, spent, cancel_requested=cancel, jitter=jitter)
    assert verdict == Verdict(TaskEvent.SUCCEEDED)


@given(st.sampled_from([o for o in Outcome if o is not Outcome.SUCCEEDED]), ATTEMPTS, JITTER)
def test_a_requested_cancel_wins_over_every_other_outcome(
    outcome: Outcome, spent: Attempts, jitter: float
) -> None:
    verdict = judge(outcome, spent, cancel_requested=True, jitter=jitter)
    assert verdict == Verdict(TaskEvent.CANCELLED)


@given(st.sampled_from([Outcome.FAILED, Outcome.RETRYABLE]), JITTER)
def test_work_that_always_fails_uses_exactly_its_attempts(outcome: Outcome, jitter: float) -> None:
    for maximum in (1, 2, 5):
        spent, tries = attempts(1, maximum, asked=maximum), 1
        while (
            verdict := judge(outcome, spent, cancel_requested=False, jitter=jitter)
        ).event is TaskEvent.REQUEUED:
            tries += 1
            spent = attempts(
                spent.attempt + verdict.counts_as_attempt, maximum, asked=maximum
            )
        assert verdict.event is TaskEvent.FAILED
        asked = RETRYABLE_ATTEMPTS if outcome is Outcome.RETRYABLE and maximum == 1 else maximum
        assert tries == asked


@given(st.sampled_from([Outcome.LOST, Outcome.DECLINED]), st.integers(1, 100), JITTER)
def test_losses_have_a_budget_of_their_own_and_spare_the_users(
    outcome: Outcome, attempt: int, jitter: float
) -> None:
    spent, requeues = attempts(attempt, attempt), 0
    delays = []
    while (
        verdict := judge(outcome, spent, cancel_requested=False, jitter=jitter)
    ).event is TaskEvent.REQUEUED:
        assert not verdict.counts_as_attempt
        delays.append(verdict.delay_s)
        requeues += 1
        spent = attempts(attempt, attempt, losses=spent.losses + 1)
    assert verdict.event is TaskEvent.FAILED
    assert requeues == INFRASTRUCTURE_RETRIES_MAX
    assert delays[0] == 0.0
    assert all(delay > 0 for delay in delays[1:])


@given(ATTEMPTS, JITTER)
def test_an_offer_that_nobody_took_costs_nothing_but_time(spent: Attempts, jitter: float) -> None:
    verdict = judge(Outcome.LOST, spent, cancel_requested=False, jitter=jitter, taken=False)
    assert verdict.event is TaskEvent.REQUEUED
    assert not verdict.counts_as_loss
    assert not verdict.counts_as_attempt
    assert 0.5 <= verdict.delay_s <= 60


@given(st.integers(0, 50), JITTER)
def test_exit_75_gets_its_tries_anew_after_a_retry_by_hand(before: int, jitter: float) -> None:
    spent = Attempts(before + 1, before + 1, 0, backoff_s=1.0, backoff_s_max=300.0)
    tries = 1
    while (
        judge(Outcome.RETRYABLE, spent, cancel_requested=False, jitter=jitter).event
        is TaskEvent.REQUEUED
    ):
        tries += 1
        spent = dataclasses.replace(spent, attempt=spent.attempt + 1)
    assert tries == RETRYABLE_ATTEMPTS


def test_cancelled_by_its_sandbox_is_cancelled() -> None:
    verdict = judge(Outcome.CANCELLED, attempts(1, 9), cancel_requested=False, jitter=0.0)
    assert verdict == Verdict(TaskEvent.CANCELLED)


def test_assignments_end_once() -> None:
    assert set(assignment.TRANSITIONS) == set(AssignmentState)
    for state, following in assignment.TRANSITIONS.items():
        assert bool(following) == (state in assignment.LIVE), state
        assert AssignmentState.OFFERED not in following


@pytest.mark.parametrize("state", sorted(assignment.LIVE))
def test_what_holds_a_slot_can_always_be_lost(state: AssignmentState) -> None:
    assert AssignmentState.LOST in assignment.TRANSITIONS[state]


def test_only_accepted_work_succeeds_or_fails() -> None:
    for end in (AssignmentState.SUCCEEDED, AssignmentState.FAILED, AssignmentState.YIELDED):
        before = [s for s, following in assignment.TRANSITIONS.items() if end in following]
        assert before == [AssignmentState.ACCEPTED]
