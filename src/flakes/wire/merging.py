"""How the results of a run's tasks are brought together, and how that stands."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen

State = Annotated[
    str,
    Meta(pattern="^(queued|verifying|resolving|promoted|contained|conflict|unverified|failed|kept)$"),
]


class Resolver(Body, frozen=True, kw_only=True, omit_defaults=True):
    """The task that is made for a conflict. It finds both sides in its working directory, with git's markers."""

    adapter: Annotated[str, Meta(min_length=1, max_length=limits.KEY_LENGTH_MAX)]
    body_markdown: str = ""
    """Said to it before what is to be resolved."""
    input: dict[str, Any] | None = None
    """What the adapter takes."""
    model: str | None = None
    effort: str | None = None
    required_capabilities: Annotated[list[str], Meta(max_length=limits.CAPABILITIES_MAX)] = []
    tool_grants: Annotated[list[str], Meta(max_length=limits.CAPABILITIES_MAX)] = []
    timeout_s: Annotated[float, Meta(gt=0, le=limits.TIMEOUT_S_MAX)] | None = None


class Merging(Body, frozen=True, kw_only=True, omit_defaults=True):
    """How a run brings in what its tasks left. Only a run that begins from files has any use for it."""

    promote: bool = True
    """Bring results in as tasks succeed; otherwise they stay candidates, to be promoted by somebody."""
    verify: Annotated[list[str], Meta(max_length=limits.VERIFY_COMMANDS_MAX)] = []
    """Command lines that must pass in the merged files before they are selected."""
    resolver: Resolver | None = None


class WorkspaceMerge(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """What became, or is to become, of a handle that a task stored."""

    workspace_id: str
    task_id: str
    task_key: str
    state: State
    selected_workspace_id: str | None = None
    """What it was merged with, and what came of that."""
    merged_workspace_id: str | None = None
    helper_task_id: str | None = None
    """The task that tests or resolves it."""
    paths: list[str] | None = None
    """The first ones that conflict."""
    reason: str | None = None
    created_at: datetime
    settled_at: datetime | None = None
