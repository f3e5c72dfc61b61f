"""A run's state is derived: the derivation against every mix of tasks."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flakes.core.run import TERMINAL, RunState, TaskCounts, derive, is_complete
from flakes.core.task import LIVE, TaskStatus
from flakes.core.task import TERMINAL as TASK_TERMINAL

S = TaskStatus
TASKS = st.lists(st.tuples(st.sampled_from(TaskStatus), st.booleans()), max_size=8)


def counts(tasks: list[tuple[TaskStatus, bool]]) -> TaskCounts:
    return TaskCounts(
        {s: sum(status is s for status, _ in tasks) for s in S},
        {s: sum(status is s and optional for status, optional in tasks) for s in S},
    )


def of(
    *statuses: TaskStatus, optional: tuple[TaskStatus, ...] = (), cancelled: bool = False
) -> RunState:
    tasks = [(s, False) for s in statuses] + [(s, True) for s in optional]
    return derive(counts(tasks), cancelled=cancelled)


@given(TASKS, st.booleans())
def test_a_run_with_a_live_task_has_not_ended_and_one_without_has(
    tasks: list[tuple[TaskStatus, bool]], cancelled: bool
) -> None:
    state = derive(counts(tasks), cancelled=cancelled)
    alive = any(status in LIVE for status, _ in tasks)
    ended = any(status in TASK_TERMINAL for status, _ in tasks)
    assert (state in TERMINAL) == (not alive and (ended or cancelled))


@given(TASKS, st.booleans())
def test_the_order_of_tasks_says_nothing(
    tasks: list[tuple[TaskStatus, bool]], cancelled: bool
) -> None:
    assert derive(counts(tasks), cancelled=cancelled) == derive(
        counts(tasks[::-1]), cancelled=cancelled
    )


@given(TASKS)
def test_the_verdict_is_that_of_the_required_tasks(tasks: list[tuple[TaskStatus, bool]]) -> None:
    ended = [(status, optional) for status, optional in tasks if status in TASK_TERMINAL]
    if not ended:
        return
    required = {status for status, optional in ended if not optional}
    expected = RunState.SUCCEEDED
    if S.CANCELLED in required:
        expected = RunState.CANCELLED
    if S.FAILED in required:
        expected = RunState.FAILED
    assert derive(counts(ended), cancelled=False) is expected


@given(TASKS)
def test_a_cancelled_run_ends_cancelled(tasks: list[tuple[TaskStatus, bool]]) -> None:
    ended = [(status, optional) for status, optional in tasks if status not in LIVE]
    assert derive(counts(ended), cancelled=True) is RunState.CANCELLED


def test_what_happens_most_shows() -> None:
    order = [S.RUNNING, S.QUEUED, S.WAITING, S.BLOCKED]
    shown = [RunState.RUNNING, RunState.QUEUED, RunState.WAITING, RunState.STALLED]
    for status, state in zip(order, shown, strict=True):
        assert of(status, S.FAILED, S.SUCCEEDED) is state
    for stronger, weaker in pairwise(order):
        if (stronger, weaker) != (S.QUEUED, S.WAITING):
            assert of(stronger, weaker) is shown[order.index(stronger)]
    # Something has run already and something may run now: that is a run under way.
    assert of(S.QUEUED, S.WAITING) is RunState.RUNNING


@pytest.mark.parametrize("statuses", [(), (S.SAVED,), (S.SAVED, S.SAVED)])
def test_nothing_admitted_is_created(statuses: tuple[TaskStatus, ...]) -> None:
    assert of(*statuses) is RunState.CREATED


def test_optional_tasks_hold_the_run_open_and_do_not_decide_it() -> None:
    assert of(S.SUCCEEDED, optional=(S.RUNNING,)) is RunState.RUNNING
    assert of(S.SUCCEEDED, optional=(S.FAILED, S.CANCELLED)) is RunState.SUCCEEDED
    assert of(optional=(S.FAILED,)) is RunState.SUCCEEDED


def test_only_a_closed_or_cancelled_run_is_complete() -> None:
    for state in RunState:
        assert not is_complete(state, closed=False, cancelled=False)
        assert is_complete(state, closed=True, cancelled=False) == (state in TERMINAL)
        assert is_complete(state, closed=False, cancelled=True) == (state in TERMINAL)
