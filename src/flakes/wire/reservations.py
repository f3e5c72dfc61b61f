"""File reservations: which paths an attempt says it is about to change. Advisory: nothing is locked.

A reservation names a logical path of the run (relative, POSIX, normalised), exactly or as a prefix, which
covers the path and everything below it. It belongs to one assignment and ends with it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen

Kind = Literal["exact", "prefix"]


class Selector(Body, frozen=True, kw_only=True):
    """A path, and whether it stands for what is below it too."""

    path: Annotated[str, Meta(max_length=limits.RESERVATION_PATH_LENGTH_MAX)]
    kind: Kind = "exact"


Some = Annotated[list[Selector], Meta(min_length=1)]
"""At most 256 a request: more is `limit_exceeded`, which says the limit."""


class FilesReserve(Body, frozen=True, kw_only=True):
    """All of them or, when one conflicts, none."""

    selectors: Some
    reason: Annotated[str, Meta(max_length=limits.RESERVATION_REASON_LENGTH_MAX)] | None = None


class FilesRelease(Body, frozen=True, kw_only=True):
    """Either selectors or `all`. Releasing what is not held changes nothing."""

    selectors: list[Selector] = []
    all: bool = False


class FilesCheck(Body, frozen=True, kw_only=True):
    """Ask without reserving."""

    selectors: Some


class Reservation(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """One reservation. `assignmentId` is there for the owner of the run and for the assignment itself."""

    path: str
    kind: Kind
    reason: str | None = None
    task_key: str
    assignment_id: str | None = None
    created_at: datetime


class Reservations(Frozen, frozen=True, kw_only=True):
    """Reservations, by path."""

    reservations: list[Reservation]
    next_cursor: str | None = None


class Conflict(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A reservation of another task that is in the way of `selector`."""

    path: str
    kind: Kind
    reason: str | None = None
    task_key: str
    selector: str


class FilesChecked(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """Answer of a check: free when no reservation of another assignment is in the way. `changing`: what running
    tasks have changed of it, reserved or not."""

    free: bool
    conflicts: list[Conflict]
    changing: list[Conflict] = []


class FilesReleased(Frozen, frozen=True, kw_only=True):
    """Answer of a release: what was held and is not any more."""

    released: list[Selector]
