"""A run's state is never set: it is derived from its tasks, and this is the derivation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from flakes.core.task import TaskStatus as T


class RunState(StrEnum):
    """What a run shows. The last three are terminal once the run is closed or cancelled."""

    CREATED = "CREATED"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    STALLED = "STALLED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TERMINAL: Final = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How many tasks are in each state; `optional` counts those among them that are optional."""

    all: Mapping[T, int]
    optional: Mapping[T, int]

    def required(self, status: T) -> int:
        """Tasks in this state whose end decides the run's end."""
        return self.all.get(status, 0) - self.optional.get(status, 0)


def derive(counts: TaskCounts, *, cancelled: bool, merging: bool = False) -> RunState:
    """The state that these tasks mean. While results are still being brought in (`merging`) it runs.

    A run with nothing but blocked tasks is STALLED: its dependencies are acyclic, so at least one of
    them has only ended dependencies and stays blocked by its own policy (`wait`). Optional tasks count
    while they live, and are left out of the verdict. A cancelled run that was never admitted, or whose
    every required task had already succeeded, is still CANCELLED: somebody stopped it.
    """
    n = counts.all
    if n.get(T.RUNNING, 0):
        return RunState.RUNNING
    if n.get(T.QUEUED, 0):
        return RunState.QUEUED if not n.get(T.WAITING, 0) else RunState.RUNNING
    if n.get(T.WAITING, 0):
        return RunState.WAITING
    if merging:
        return RunState.RUNNING
    if n.get(T.BLOCKED, 0):
        return RunState.STALLED
    if cancelled:
        return RunState.CANCELLED
    if not any(n.get(status, 0) for status in (T.SUCCEEDED, T.FAILED, T.CANCELLED)):
        return RunState.CREATED
    if counts.required(T.FAILED):
        return RunState.FAILED
    if counts.required(T.CANCELLED):
        return RunState.CANCELLED
    return RunState.SUCCEEDED


def is_complete(state: RunState, *, closed: bool, cancelled: bool) -> bool:
    """Whether the run is over: a terminal state that nothing may add to any more."""
    return state in TERMINAL and (closed or cancelled)
