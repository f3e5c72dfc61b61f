"""What a running task may ask the control plane for: one table, read by all who take part.

The server makes a route of every entry, ``POST .../assignments/{assignmentId}/operations/{name}``, and
fences it by the assignment; the sandbox forwards nothing that is not in the table; the `flakes` command
that a task finds on its PATH offers the entries that have words. An operation acts for the assignment
that asks and for no other, so no request names a task, a run or an owner to act as.

A request may arrive twice: the sandbox sends it again when the connection broke before the answer came.
So every operation is idempotent, by nature, by an id in its request, or by the key that it is sent under. An answer comes within 50 s; what
takes longer is asked for again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from flakes.core import limits
from flakes.wire.artifacts import (
    Artifact,
    ArtifactAnnounce,
    ArtifactAppend,
    ArtifactPiece,
    ArtifactRead,
    ArtifactUpload,
)
from flakes.wire.budgets import (
    BudgetExtend,
    BudgetExtended,
    BudgetGrant,
    BudgetReserve,
    BudgetState,
)
from flakes.wire.codec import Body
from flakes.wire.groups import (
    Children,
    ChildrenCancel,
    ChildrenRead,
    EndedTasks,
    Group,
    GroupCancel,
    GroupName,
    GroupOpen,
    OutputPiece,
    OutputRead,
    OutputsRead,
    ResultsRead,
    Spawned,
    TaskSpawn,
    TasksRead,
    WorkpadRead,
)
from flakes.wire.inbox import InboxConsume, InboxConsumed, InboxMessages, InboxRead
from flakes.wire.journals import JournalAppend, JournalEntries, JournalLength, JournalRead
from flakes.wire.overlaps import ChangesReport, ChangesReported
from flakes.wire.permissions import Permission, PermissionAsk, PermissionPoll
from flakes.wire.reservations import (
    FilesCheck,
    FilesChecked,
    FilesRelease,
    FilesReleased,
    FilesReserve,
    Reservations,
)
from flakes.wire.rounds import (
    LiveChild,
    Round,
    RoundComplete,
    RoundGiven,
    RoundName,
    RoundNext,
    Rounds,
    RoundSend,
    RoundsRead,
)
from flakes.wire.tasks import TaskResult, Tasks
from flakes.wire.waits import Signal, SignalSend, Wait, WaitFor
from flakes.wire.workpads import Workpad, WorkpadPut
from flakes.wire.workspaces import (
    Promoted,
    PromotionPost,
    WorkspaceCommit,
    WorkspaceCompare,
    WorkspaceCompared,
    WorkspaceHandle,
    WorkspaceSelect,
    WorkspaceSelected,
)

PROMOTE: Final = "flakes.workspace.promote"
"""The grant to move what the run has selected."""
SPAWN: Final = "flakes.tasks.spawn"
"""The grant to make children and to cancel them."""
GROUPS: Final = "flakes.groups"
"""The grant to open, close and cancel groups of children."""


class Empty(Body, frozen=True, kw_only=True):
    """The body of an operation that takes nothing."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a task may do. `grant`: the tool grant it needs, None for what every task may. `summary`
    is a sentence for documents and help. `words`: the command that does it inside a task, without
    `flakes`; empty when there is none. `errors`: codes it may answer besides those of every operation. `waits`:
    it may be held for a while, and changes nothing. `once`: it is not idempotent by itself, so the sandbox
    sends it under an `Idempotency-Key`, the same one until it has its answer. `pieces`: it carries a piece of
    content, is idempotent by its offset, and takes no key. `inner`: it is the sandbox's own, and no task is
    offered it. `program`: it is for programs that use the task's socket, and of no use to an agent.
    """

    request: type[Any]
    answer: type[Any]
    summary: str
    grant: str | None = None
    words: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    body_max_bytes: int = limits.OPERATION_SIZE_BYTES_MAX
    waits: bool = False
    once: bool = False
    pieces: bool = False
    inner: bool = False
    program: bool = False

    @property
    def tool(self) -> bool:
        """Whether an agent is offered it over MCP."""
        return not (self.inner or self.program)


OPERATIONS: Final[dict[str, Operation]] = {
    "workpad.read": Operation(
        Empty, Workpad, "Read the task's own workpad.", words=("tasks", "workpad", "pull"),
    ),
    "workpad.save": Operation(
        WorkpadPut, Workpad, "Save a new version of the task's own workpad.",
        words=("tasks", "workpad", "push"), errors=("workpad_version_conflict", "workpad_too_large"),
    ),
    "files.reserve": Operation(
        FilesReserve, Reservations, "Reserve paths of the run for this assignment, all or none.",
        words=("tasks", "files", "reserve"), errors=("file_reservation_conflict", "limit_exceeded"),
    ),
    "files.release": Operation(
        FilesRelease, FilesReleased, "Release reservations of this assignment.",
        words=("tasks", "files", "release"), errors=("limit_exceeded",),
    ),
    "files.list": Operation(
        Empty, Reservations, "List the reservations of this assignment.",
        words=("tasks", "files", "list"),
    ),
    "files.check": Operation(
        FilesCheck, FilesChecked, "Say whether paths conflict with reservations of other tasks.",
        words=("tasks", "files", "check"), errors=("limit_exceeded",),
    ),
    "permission.ask": Operation(
        PermissionAsk, Permission, "Ask the owner of the run for permission.",
        words=("ask",), errors=("operation_conflict", "limit_exceeded"),
    ),
    "permission.status": Operation(
        PermissionPoll, Permission, "Say how an own request stands; wait a while for its answer.",
        errors=("not_found",), waits=True,
    ),
    "budget.read": Operation(
        Empty, BudgetState, "Say what the budgets of this task are, and what of them is spent and left.",
        words=("budget", "show"),
    ),
    "budget.reserve": Operation(
        BudgetReserve, BudgetGrant, "Reserve what the attempt may spend next of the budgets it shares.", inner=True,
    ),
    "budget.extend": Operation(
        BudgetExtend, BudgetExtended, "Add to a budget what its owner has allowed.", inner=True,
        errors=("not_found",),
    ),
    "artifact.create": Operation(
        ArtifactAnnounce, Artifact, "Announce an artifact of this task; its content follows.",
        words=("artifacts", "create"), errors=("limit_exceeded",), once=True,
    ),
    "artifact.append": Operation(
        ArtifactAppend, ArtifactUpload, "Add the next piece to an artifact that this task announced.",
        errors=("not_found", "upload_offset_conflict", "upload_busy", "artifact_ready", "digest_mismatch",
                "storage_full"), pieces=True,
    ),
    "artifact.read": Operation(
        ArtifactRead, ArtifactPiece, "Read a piece of an artifact of the run, or of an input of the task.",
        words=("artifacts", "fetch"),
        errors=("not_found", "artifact_pending", "range_not_satisfiable", "storage_full"), pieces=True,
    ),
    "group.open": Operation(
        GroupOpen, Group, "Open a group of children, or find the one opened under this key.", grant=GROUPS,
        words=("groups", "open"), errors=("operation_conflict", "limit_exceeded"),
    ),
    "group.close": Operation(
        GroupName, Group, "Close a group: no more children, and it can be awaited.", grant=GROUPS,
        words=("groups", "close"), errors=("not_found",),
    ),
    "group.status": Operation(
        GroupName, Group, "Say how a group of this task stands.", words=("groups", "status"),
        errors=("not_found",),
    ),
    "group.cancel": Operation(
        GroupCancel, Group, "Cancel what still lives of a group.", grant=GROUPS,
        words=("groups", "cancel"), errors=("not_found",),
    ),
    "task.spawn": Operation(
        TaskSpawn, Spawned, "Make children of this task, all or none, and admit them.", grant=SPAWN,
        words=("tasks", "spawn"),
        errors=("operation_conflict", "group_closed", "wait_deadlock", "run_conflict", "run_closed",
                "run_deleting", "graph_invalid", "limit_exceeded", "budget_exhausted", "artifact_pending", "not_found"),
    ),
    "task.children": Operation(
        ChildrenRead, Children, "List the children of this task, all or those of a group.",
        words=("tasks", "children"), errors=("not_found",),
    ),
    "task.cancel": Operation(
        ChildrenCancel, Children, "Cancel children of this task.", grant=SPAWN, words=("tasks", "cancel"),
        errors=("not_found",),
    ),
    "task.outputs": Operation(
        OutputsRead, TaskResult, "Read what an ended task of the run left behind.",
        words=("tasks", "outputs"), errors=("not_found", "result_not_ready"),
    ),
    "task.results": Operation(
        ResultsRead, EndedTasks, "Read what several tasks of the run left behind, those that have ended.",
    ),
    "task.output": Operation(
        OutputRead, OutputPiece, "Read a piece of an output of an ended task of the run.",
        words=("tasks", "output"),
        errors=("not_found", "result_not_ready", "range_not_satisfiable", "storage_full"), pieces=True,
    ),
    "task.workpad": Operation(
        WorkpadRead, Workpad, "Read the workpad of another task of the run.", words=("tasks", "workpad", "show"),
        errors=("not_found",),
    ),
    "task.wait": Operation(
        WaitFor, Wait, "Wait for a group, children, a time or a signal. An answer that is pending means: end your turn"
        " now; you go on when it has come.",
        words=("wait",), waits=True,
        errors=("operation_conflict", "group_open", "wait_unsatisfiable", "wait_stalled", "wait_deadlock",
                "limit_exceeded", "not_found"),
    ),
    "task.signal": Operation(
        SignalSend, Signal, "Send a signal to the parent or a child of this task.",
        words=("tasks", "signal"), errors=("operation_conflict", "task_ended", "limit_exceeded", "not_found"),
    ),
    "round.send": Operation(
        RoundSend, Round, "Send a prompt to a live child.", grant=SPAWN, words=("rounds", "send"),
        errors=("operation_conflict", "round_conflict", "task_ended", "limit_exceeded", "not_found"),
    ),
    "round.finish": Operation(
        LiveChild, Rounds, "Send no more prompts to a live child: it ends after its open rounds.", grant=SPAWN,
        words=("rounds", "finish"), errors=("round_conflict", "not_found"),
    ),
    "round.next": Operation(
        RoundNext, RoundGiven, "Take the next prompt of this live task. Neither a round nor finishing means: end"
        " your turn now; you go on when there is one.",
        words=("rounds", "next"), waits=True, errors=("round_conflict", "limit_exceeded"),
    ),
    "round.complete": Operation(
        RoundComplete, Round, "Complete a round of this live task with what it came to.",
        words=("rounds", "complete"), errors=("round_conflict", "limit_exceeded", "not_found"),
    ),
    "round.read": Operation(
        RoundName, Round, "Read a round of a live child, or of this task, with its outputs.",
        words=("rounds", "read"), errors=("not_found",),
    ),
    "round.list": Operation(
        RoundsRead, Rounds, "List the rounds of a live child, or of this task.", words=("rounds", "list"),
        errors=("not_found",),
    ),
    "run.tasks": Operation(TasksRead, Tasks, "List the tasks of the run.", words=("tasks", "list")),
    "journal.read": Operation(
        JournalRead, JournalEntries, "Read the task's own journal.", errors=("storage_full",), pieces=True,
        program=True,
    ),
    "journal.append": Operation(
        JournalAppend, JournalLength, "Add entries to the task's own journal.",
        errors=("journal_conflict", "limit_exceeded", "storage_full"),
        body_max_bytes=limits.JOURNAL_APPEND_BYTES_MAX, pieces=True, program=True,
    ),
    "workspace.selected": Operation(
        WorkspaceSelect, WorkspaceSelected, "Say which files the run has selected.",
        words=("workspace", "selected"),
    ),
    "workspace.changing": Operation(
        ChangesReport, ChangesReported, "Say which files the task has changed so far.", inner=True,
    ),
    "workspace.promote": Operation(
        PromotionPost, Promoted, "Select files that were made from those that the run has selected.",
        grant=PROMOTE, words=("workspace", "promote"),
        errors=("not_found", "workspace_base_stale", "workspace_path_refused", "workspace_unrelated"),
    ),
}  # fmt: skip
"""By name, `<noun>.<verb>`."""

LOCAL: Final[dict[str, Operation]] = {
    "inbox.read": Operation(
        InboxRead, InboxMessages, "Give the messages that the task has not acknowledged.",
        words=("inbox",),
    ),
    "inbox.consume": Operation(InboxConsume, InboxConsumed, "Acknowledge messages."),
    "workspace.commit": Operation(
        WorkspaceCommit, WorkspaceHandle, "Store the files of the task as they are now.",
        words=("workspace", "commit"),
    ),
    "workspace.diff": Operation(
        WorkspaceCompare, WorkspaceCompared, "Show what the task has changed, or how two workspaces differ.",
        words=("workspace", "diff"),
    ),
}  # fmt: skip
"""Operations that the sandbox answers itself: there is no route for them, and nothing is forwarded."""
