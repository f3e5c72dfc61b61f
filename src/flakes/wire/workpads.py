"""Workpads: one Markdown document a task, written by people and by the attempt that runs.

Versions count from 0, which is the empty document that every task has before anybody wrote. A save names
the version that it was made from; no version is ever changed or lost.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from flakes.wire.codec import Body, Frozen


class Author(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """Who wrote a version: a user (`userId`), or an attempt of the task (`assignmentId`)."""

    kind: Literal["user", "assignment"]
    user_id: str | None = None
    assignment_id: str | None = None


class WorkpadPut(Body, frozen=True, kw_only=True):
    """Body of a save. `baseVersion` is the version that was edited; `bodyMarkdown` is at most 512 KiB of
    UTF-8, which is refused as `workpad_too_large` rather than as an invalid body."""

    body_markdown: str
    base_version: Annotated[int, Meta(ge=0)]


class WorkpadMetadata(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """What lists of tasks show; version 0 has never been written."""

    version: int
    updated_at: datetime | None = None


class Workpad(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """One version of the document. Version 0 is empty and has neither time nor author."""

    task_id: str
    version: int
    body_markdown: str
    updated_at: datetime | None = None
    author: Author | None = None


class WorkpadVersion(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A version in the list of them; its text is read by itself."""

    version: int
    size_bytes: int
    updated_at: datetime
    author: Author


class WorkpadVersions(Frozen, frozen=True, kw_only=True):
    """A page of versions, newest first."""

    versions: list[WorkpadVersion]
    next_cursor: str | None = None
