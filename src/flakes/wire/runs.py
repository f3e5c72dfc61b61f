"""Runs: containers of tasks inside a project."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen
from flakes.wire.merging import Merging
from flakes.wire.tasks import Task, TaskBudget, TaskDefinition

Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_LENGTH_MAX)]


class RunPut(Body, frozen=True, kw_only=True):
    """Body of `PUT /v1/runs/:runKey`; exactly one of `projectKey` and `projectId`."""

    name: Name
    run_key: str | None = None
    project_key: str | None = None
    project_id: str | None = None
    metadata: dict[str, Any] = {}
    budget: TaskBudget | None = None
    workspace_id: str | None = None
    """The files that its tasks begin from."""
    merging: Merging | None = None
    """How what they leave is brought together."""


class GraphPost(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/runs/:runKey/graph`: run, tasks and admission in one transaction."""

    name: Name
    tasks: Annotated[
        list[TaskDefinition], Meta(min_length=1, max_length=limits.ADMISSION_TASKS_MAX)
    ]
    run_key: str | None = None
    project_key: str | None = None
    project_id: str | None = None
    metadata: dict[str, Any] = {}
    budget: TaskBudget | None = None
    workspace_id: str | None = None
    """The files that its tasks begin from."""
    merging: Merging | None = None
    """How what they leave is brought together."""
    close: bool = False


class Run(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A run. `state` is derived from its tasks; an open run shows what it would be."""

    run_id: str
    run_key: str
    name: str
    project_id: str
    project_key: str
    state: str
    closed: bool
    cancel_requested: bool = False
    deleting: bool = False
    """Somebody deleted it while it was live: it goes once nothing of it lives."""
    task_counts: dict[str, int]
    metadata: dict[str, Any]
    budget: dict[str, Any] | None = None
    workspace_id: str | None = None
    """The files that it began from; what is selected now: `/v1/runs/:run/workspaces`."""
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None = None


class Runs(Frozen, frozen=True, kw_only=True):
    """A page of runs, newest first."""

    runs: list[Run]
    next_cursor: str | None = None


class RunDeleted(Frozen, frozen=True, kw_only=True):
    """Answer of a delete: `deleted`, or `deleting` while something of the run still lives."""

    status: Literal["deleted", "deleting"]
    run_id: str


class RunWithTasks(Frozen, frozen=True, kw_only=True):
    """Answer of admit and graph."""

    run: Run
    tasks: list[Task]
