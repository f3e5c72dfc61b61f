"""In which order the results of a run's tasks are brought into what the run has selected: the next step as a rule.

Every handle that an attempt stores while it lives is an entry. It waits until its attempt has ended, and then is
settled one way or the other. Entries of a run are brought in one at a time, in the order in which their tasks
ended; one whose merged files are being tested or resolved holds back those behind it, but for what the task that
resolves it left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal


class MergeState(StrEnum):
    """What became of an entry; the first three are open."""

    QUEUED = "queued"
    VERIFYING = "verifying"
    RESOLVING = "resolving"
    PROMOTED = "promoted"
    CONTAINED = "contained"
    """It is in what is selected already."""
    CONFLICT = "conflict"
    UNVERIFIED = "unverified"
    """What came of merging it did not pass its test."""
    FAILED = "failed"
    """It could not be merged, for a reason that is told."""
    KEPT = "kept"
    """It is not brought in: its attempt did not end well, or something else of the task is."""


OPEN: Final = frozenset({MergeState.QUEUED, MergeState.VERIFYING, MergeState.RESOLVING})

Helper = Literal["live", "succeeded", "failed"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One open handle of a run. `place` orders those whose tasks have ended."""

    workspace_id: str
    task_id: str
    kind: Literal["output", "candidate"]
    state: MergeState
    attempt: Literal["live", "succeeded", "failed"]
    """Of the attempt that stored it; it succeeded when it decided its task so."""
    place: tuple[float, str]
    helper_task_id: str | None = None
    """The task that tests or resolves it, and how that stands."""
    helper: Helper | None = None
    tests: bool = False
    """Its own task is one that tests: what it left behind is nobody's."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Settle it as kept, for a reason."""

    workspace_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Bring:
    """Merge it with what is selected."""

    workspace_id: str


@dataclass(frozen=True, slots=True)
class Conclude:
    """Its helper has ended: `succeeded` or not."""

    workspace_id: str
    succeeded: bool


Step = Keep | Bring | Conclude


def steps(entries: Sequence[Entry], *, cancelled: bool) -> list[Step]:
    """What can be done for these entries of one run now: any number of `Keep`, and at most one other step, last."""
    if cancelled:
        return [Keep(entry.workspace_id, "the run was cancelled") for entry in entries]
    kept: list[Step] = []
    ready: list[Entry] = []
    for entry in entries:
        reason = _reason_to_keep(entry, entries)
        if reason:
            kept.append(Keep(entry.workspace_id, reason))
        elif entry.attempt == "succeeded":
            ready.append(entry)
    ready.sort(key=lambda entry: entry.place)
    step = _next(ready)
    return [*kept, step] if step is not None else kept


def _reason_to_keep(entry: Entry, entries: Sequence[Entry]) -> str:
    if entry.attempt == "failed":
        return "its attempt did not end well"
    if entry.attempt == "live" or entry.state is not MergeState.QUEUED:
        return ""
    if entry.tests:
        return "its task only tests what was merged"
    own = [each for each in entries if each.task_id == entry.task_id and each.attempt == "succeeded"]
    if entry.kind == "candidate":
        if any(each.kind == "output" for each in own):
            return "it was not declared, and other files of the task were"
        if any(each.workspace_id > entry.workspace_id for each in own):
            return "the task stored more later"
    return ""


def _next(ready: Sequence[Entry]) -> Step | None:
    for entry in ready:
        if entry.state is MergeState.VERIFYING:
            if entry.helper == "live":
                return None
            return Conclude(entry.workspace_id, entry.helper == "succeeded")
    for entry in ready:
        if entry.state is MergeState.RESOLVING:
            own = [each for each in ready if each.task_id == entry.helper_task_id]
            if own:
                return Bring(own[0].workspace_id)
            if entry.helper == "live":
                return None
            return Conclude(entry.workspace_id, entry.helper == "succeeded")
    return Bring(ready[0].workspace_id) if ready else None
