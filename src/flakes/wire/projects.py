"""Projects: the namespace of runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flakes.wire.codec import Body, Frozen


class ProjectPut(Body, frozen=True, kw_only=True):
    """Body of `PUT /v1/projects/:projectKey`."""

    name: str
    project_key: str | None = None
    """When given, must equal the path."""
    metadata: dict[str, Any] = {}


class ProjectPatch(Body, frozen=True, kw_only=True):
    """Body of `PATCH /v1/projects/:projectKey`; what is absent stays."""

    name: str | None = None
    metadata: dict[str, Any] | None = None


class Project(Frozen, frozen=True, kw_only=True):
    """A project as every route answers it."""

    project_id: str
    project_key: str
    name: str
    status: str
    """`active` or `archived`."""
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None


class Projects(Frozen, frozen=True, kw_only=True):
    """A page of projects."""

    projects: list[Project]
    next_cursor: str | None = None
