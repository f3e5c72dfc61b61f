"""Project roots of hosts, and the bindings of projects to pools."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen


class WorkspaceRootPut(Body, frozen=True, kw_only=True):
    """Body of `PUT /v1/hosts/:hostId/project-workspace-root`: an absolute path on the host."""

    path: Annotated[str, Meta(min_length=1, max_length=limits.HOST_PATH_LENGTH_MAX)]


class WorkspaceRoot(Frozen, frozen=True, kw_only=True):
    host_id: str
    project_workspace_root: str
    updated_at: datetime


class BindingPut(Body, frozen=True, kw_only=True):
    """Body of `PUT /v1/hosts/:hostId/project-bindings/:projectKey`."""

    pool_keys: Annotated[list[str], Meta(min_length=1, max_length=limits.POOLS_PER_HOST_MAX)]


class Binding(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A project and the pools of a host that may serve it."""

    binding_id: str
    host_id: str
    project_id: str
    project_key: str
    pool_keys: list[str]
    status: str
    """`pending` (the host has not said), `available`, or `unavailable`."""
    reason: str | None = None
    """Why it is not available: a code, see the guide to hosts."""
    workspace_path: str | None = None
    """Where the project's files are on the host: its project root, then the project's key."""
    validated_at: datetime | None = None
    created_at: datetime
    updated_at: datetime


class Bindings(Frozen, frozen=True, kw_only=True):
    bindings: list[Binding]
    next_cursor: str | None = None


class BindingDeleted(Frozen, frozen=True, kw_only=True):
    status: str
    host_id: str
    project_key: str
