"""Overlaps: two tasks of a run that change the same files, or one that changes what the other has reserved.

Told while they still run, from names of paths alone: whether their changes fit together is seen when they are merged.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen

How = Literal["changed", "reserved"]
"""What the other one does with the paths."""


class ChangesReport(Body, frozen=True, kw_only=True):
    """Operation `workspace.changing`: what the files of the task differ in now from what it began with. All of it
    each time, by name; none: nothing any more."""

    paths: Annotated[
        list[Annotated[str, Meta(max_length=limits.WORKSPACE_PATH_LENGTH_MAX)]],
        Meta(max_length=limits.WORKSPACE_CHANGES_MAX),
    ]


class Overlap(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """What the asking task changes and another one changes or has reserved; `paths` are the first ones."""

    task_id: str
    task_key: str
    how: How
    paths: list[str]
    count: int


class ChangesReported(Frozen, frozen=True, kw_only=True):
    """Answer of a report. `alone`: no other attempt of the run is live, so the next one may take its time."""

    fresh: list[Overlap]
    """What was not known before."""
    alone: bool


class WorkspaceOverlap(Frozen, frozen=True, kw_only=True):
    """An overlap of two tasks of a run: `task` changes the paths, and so does `other`, or has reserved them."""

    task_id: str
    task_key: str
    other_task_id: str
    other_task_key: str
    how: How
    paths: list[str]
    count: int
    found_at: datetime
    updated_at: datetime
