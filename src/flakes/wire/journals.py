"""The journal of a harness: entries in order, only ever added to. What is in them is the harness's own business."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen

Position = Annotated[int, Meta(ge=0, le=limits.JOURNAL_ENTRIES_MAX)]
"""How many entries are before it."""


class JournalRead(Body, frozen=True, kw_only=True):
    """Asks for the entries of this task from a position on."""

    after: Position = 0


class JournalEntries(Frozen, frozen=True, kw_only=True):
    """The next entries, and whether there are more behind them."""

    entries: list[str]
    more: bool


class JournalAppend(Body, frozen=True, kw_only=True):
    """Adds entries at a position, all or none. Those that are there already must be the same."""

    at: Position
    entries: Annotated[list[str], Meta(min_length=1, max_length=limits.JOURNAL_APPEND_ENTRIES_MAX)]


class JournalLength(Frozen, frozen=True, kw_only=True):
    """How many entries there are."""

    length: int
