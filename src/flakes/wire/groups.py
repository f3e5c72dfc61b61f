"""Tasks that running tasks make: children, and the groups that they are opened, filled and awaited in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen
from flakes.wire.tasks import TaskDefinition, TaskError, TaskResult

Join = Literal["all_success", "all_settled", "first", "quorum"]
Status = Literal["OPEN", "CLOSED", "SUCCEEDED", "FAILED", "ABANDONED", "CANCELLED"]
Reference = Annotated[str, Meta(min_length=1, max_length=limits.NAME_LENGTH_MAX)]
"""An id or a key."""


class GroupOpen(Body, frozen=True, kw_only=True):
    """Opens a group of this task, or finds the one it has opened under this key with the same meaning. `quorum`
    goes with the rule of that name only."""

    group_key: Annotated[str, Meta(min_length=1, max_length=limits.KEY_LENGTH_MAX)]
    name: Annotated[str, Meta(max_length=limits.NAME_LENGTH_MAX)] | None = None
    join: Join = "all_success"
    quorum: Annotated[int, Meta(ge=1, le=limits.CHILDREN_MAX)] | None = None
    max_children: Annotated[int, Meta(ge=1, le=limits.CHILDREN_MAX)] | None = None


class GroupName(Body, frozen=True, kw_only=True):
    """A group of this task, by id or key."""

    group: Reference


class GroupCancel(Body, frozen=True, kw_only=True):
    """Cancels the members of a group that still live. One that is not settled is `CANCELLED` then."""

    group: Reference
    reason: Annotated[str, Meta(max_length=2_000)] | None = None


class Members(Frozen, frozen=True, kw_only=True):
    """How many members a group or a wait has, and how they stand."""

    total: int
    live: int
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class Group(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A group and how it stands. Settled are all states but `OPEN` and `CLOSED`."""

    group_id: str
    group_key: str
    name: str | None = None
    run_id: str
    owner_task_id: str
    status: Status
    join_rule: Join
    quorum: int | None = None
    max_children: int | None = None
    counts: Members
    created_at: datetime
    closed_at: datetime | None = None
    settled_at: datetime | None = None


class Groups(Frozen, frozen=True, kw_only=True):
    """The groups of a task, oldest first."""

    groups: list[Group]


class TaskSpawn(Body, frozen=True, kw_only=True):
    """Makes children, all or none, in the run of this task. The same `operationId` with the same body answers
    with the same children. A definition without a key gets one. A child may depend on tasks of the run by their
    keys, and has no grant that this task lacks. `detached` children outlive this task."""

    operation_id: Annotated[str, Meta(min_length=1, max_length=200)]
    tasks: Annotated[
        list[TaskDefinition], Meta(min_length=1, max_length=limits.SPAWN_TASKS_MAX)
    ]
    group: Reference | None = None
    detached: bool = False


class Child(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A child as its parent sees it."""

    task_id: str
    task_key: str
    title: str
    adapter: str
    status: str
    group_id: str | None = None
    detached: bool = False
    attempt: int = 1
    error: TaskError | None = None
    finished_at: datetime | None = None


class Spawned(Frozen, frozen=True, kw_only=True):
    """The children of one request, in its order."""

    operation_id: str
    children: list[Child]


class ChildrenRead(Body, frozen=True, kw_only=True):
    """A page of this task's children, in the order they were made: all, or those of a group."""

    group: Reference | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=limits.CHILDREN_PAGE_MAX)] = limits.CHILDREN_PAGE_MAX


class Children(Frozen, frozen=True, kw_only=True):
    """A page of them."""

    children: list[Child]
    next_cursor: str | None = None


class ChildrenCancel(Body, frozen=True, kw_only=True):
    """Cancels these children, by id or key; those that have ended stay as they are."""

    tasks: Annotated[list[Reference], Meta(min_length=1, max_length=limits.SPAWN_TASKS_MAX)]
    reason: Annotated[str, Meta(max_length=2_000)] | None = None


class OutputsRead(Body, frozen=True, kw_only=True):
    """An ended task of the same run, by id or key."""

    task: Reference


class WorkpadRead(Body, frozen=True, kw_only=True):
    """A task of the same run, by id or key."""

    task: Reference


class TasksRead(Body, frozen=True, kw_only=True):
    """A page of the tasks of the run, in the order they were saved."""

    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=limits.CHILDREN_PAGE_MAX)] = limits.CHILDREN_PAGE_MAX


class ResultsRead(Body, frozen=True, kw_only=True):
    """Tasks of the same run by id: those that have ended are told."""

    tasks: Annotated[list[str], Meta(min_length=1, max_length=limits.SPAWN_TASKS_MAX)]


class EndedTask(TaskResult, frozen=True, kw_only=True, omit_defaults=True):
    """A result among others."""

    task_key: str
    workspace_id: str | None = None
    """The files that it changed, apart from declared outputs."""


class EndedTasks(Frozen, frozen=True, kw_only=True):
    """Results in the order in which the tasks ended; `left` are ended ones that did not fit, to be asked again."""

    results: list[EndedTask]
    left: list[str]


class OutputRead(Body, frozen=True, kw_only=True):
    """A piece of one output of an ended task of the same run, from `offset` on."""

    task: Reference
    output_key: Annotated[str, Meta(min_length=1, max_length=limits.KEY_LENGTH_MAX)]
    offset: Annotated[int, Meta(ge=0)] = 0


class OutputPiece(Frozen, frozen=True, kw_only=True):
    """The next bytes of an output, at most 2 MiB; the last piece ends at `sizeBytes`."""

    task_id: str
    output_key: str
    digest: str
    size_bytes: int
    offset: int
    bytes_base64: bytes
