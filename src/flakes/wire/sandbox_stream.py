"""The stream between a sandbox daemon and the control plane: WebSocket, one JSON frame a message.

Upstream: `Hello` first, then `Batch` frames of reliable messages with consecutive sequence numbers, and
`Heartbeat`s. The daemon keeps every reliable message in its journal until an `Ack` covers it, and sends
the rest again after a reconnect; the server applies each one at most once because all of them are
idempotent by assignment (a log line by its line number, a transcript's entry likewise). An ack leaves after the commit, never before.

Downstream: `Welcome`, `Ack`, `Assign`, `Cancel`, `Drain`, `Input`. None of these is stored for the link:
offers, cancels and messages to a task are facts in the database and are sent again on reconnect.

An accepted assignment starts only when the ack of its `Accepted` has come back and does not list it as
stale: whoever is acknowledged is the only one that runs it.

Flow control: the daemon sends at most `Welcome.window` messages beyond the last ack. A frame is at most
1 MiB; senders split batches, and an assignment too large for a frame comes as a reference to fetch.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from flakes.core.task import Outcome
from flakes.wire.codec import Frozen
from flakes.wire.tasks import Evidence, Output, TaskDefinition, TaskError, TaskWarning
from flakes.wire.transcripts import AgentUsage, EntryBody
from flakes.wire.waits import Happened
from flakes.wire.workspaces import AssignedWorkspace, OwnWorkspace, WorkspaceHandle

PROTOCOL: Final = 1


class InventoryItem(Frozen, frozen=True, kw_only=True):
    """An assignment the daemon still holds: `pending` (accept not acknowledged), `running`, or `ended`
    (its result is in the journal and will be sent again)."""

    assignment_id: str
    state: Literal["pending", "running", "ended"]


class Hello(Frozen, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """First frame of a connection. `boot` changes with every start of the daemon."""

    protocol: int
    sandbox_id: str
    boot: str
    version: str
    max_concurrency: int
    adapters: list[str]
    capabilities: list[str]
    assignments: list[InventoryItem]
    isolation: str = ""
    """What stands between a task and the machine, in words."""
    limits: Literal["enforced", "partly", "none"] = "none"
    """How far memory, cpu and process limits of a task are really enforced; `limits_reason` says more."""
    limits_reason: str = ""


class Accepted(Frozen, frozen=True, kw_only=True, tag_field="type", tag="accepted"):
    assignment_id: str


class Declined(Frozen, frozen=True, kw_only=True, tag_field="type", tag="declined"):
    """The daemon cannot take it (draining, full, unknown adapter); nothing was started."""

    assignment_id: str
    reason: str


class LogLine(Frozen, frozen=True, kw_only=True):
    """`at_ms`: Unix milliseconds on the sandbox's clock."""

    channel: Literal["stdout", "stderr", "system"]
    at_ms: int
    text: str


class LogLines(Frozen, frozen=True, kw_only=True, tag_field="type", tag="log"):
    """Consecutive lines of one assignment, numbered from `first_line` (from 0)."""

    assignment_id: str
    first_line: int
    lines: list[LogLine]


class TranscriptChunk(
    Frozen, frozen=True, kw_only=True, tag_field="type", tag="transcript", omit_defaults=True
):
    """Consecutive entries of one assignment's transcript, numbered from `first_entry` (from 0). `usage`: what
    the attempt has spent so far, in all; None while that has not changed."""

    assignment_id: str
    first_entry: int
    entries: list[EntryBody]
    usage: AgentUsage | None = None


class Result(Frozen, frozen=True, kw_only=True, tag_field="type", tag="result", omit_defaults=True):
    """The end of an assignment. Sent only when no process of it is left (F12, F24)."""

    assignment_id: str
    outcome: Outcome
    text: str = ""
    exit_code: int | None = None
    outputs: dict[str, Output] = {}
    evidence: list[Evidence] = []
    warnings: list[TaskWarning] = []
    error: TaskError | None = None
    started_at_ms: int | None = None
    ended_at_ms: int | None = None


class InputState(Frozen, frozen=True, kw_only=True, tag_field="type", tag="input_state"):
    """What became of a message to an assignment: `delivered` is in the agent's hands, `consumed` was taken
    in by it, `refused` will never be, for `reason`. The server records it under the message's id."""

    assignment_id: str
    message_id: str
    state: Literal["delivered", "consumed", "refused"]
    reason: str = ""


Message = Accepted | Declined | LogLines | Result | InputState | TranscriptChunk


class Batch(Frozen, frozen=True, kw_only=True, tag_field="type", tag="batch"):
    """Reliable messages `first_seq`, `first_seq + 1`, ..."""

    first_seq: int
    messages: list[Message]


class Heartbeat(Frozen, frozen=True, kw_only=True, tag_field="type", tag="heartbeat"):
    """One heartbeat renews everything the sandbox holds."""

    running: int


Upstream = Hello | Batch | Heartbeat


class Welcome(Frozen, frozen=True, kw_only=True, tag_field="type", tag="welcome"):
    """`drop` lists inventory that is no longer the daemon's: kill it and forget it."""

    protocol: int
    heartbeat_s: float
    window: int
    server_time_ms: int
    drop: list[str]


class Ack(Frozen, frozen=True, kw_only=True, tag_field="type", tag="ack"):
    """Everything up to and including `seq` is applied and durable, except for `stale` assignments, whose
    messages were refused: kill them and forget them (F03, F30)."""

    seq: int
    stale: list[str] = []


class InputOutput(Frozen, frozen=True, kw_only=True):
    """An output of a dependency, as an input of this task."""

    task_key: str
    output_key: str
    output: Output


class InputArtifact(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """An artifact that the task names as input. Its bytes: `GET /v1/sandboxes/:sandboxId/blobs/:digest`."""

    artifact_id: str
    name: str | None = None
    """As its owner wrote it; it may be no file name at all."""
    digest: str
    size_bytes: int


class Assignment(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """One piece of work. `definition` None: fetch
    `GET /v1/sandboxes/:sandboxId/assignments/:assignmentId`."""

    assignment_id: str
    task_id: str
    task_key: str
    run_id: str
    run_key: str
    project_key: str
    attempt: int
    definition: TaskDefinition | None = None
    inputs: list[InputOutput] = []
    artifacts: list[InputArtifact] = []
    run_metadata: dict[str, Any] = {}
    spent: AgentUsage | None = None
    """What earlier attempts of the task have spent."""
    workspace: AssignedWorkspace | None = None
    """The files that it begins from; None: the run has none."""
    workspace_inputs: dict[str, WorkspaceHandle] = {}
    """Further files that its definition names, by mount."""
    own_workspaces: list[OwnWorkspace] = []
    """What earlier attempts of the task had changed when they had to end, newest first."""
    extended: dict[str, int] = {}
    """What its owner has added to the bounds of the task's budget (`tokens`, `costMicroUsd`, `wallMs`)."""
    shares_budgets: bool = False
    """Its run or a task above it may have a budget too, or its own is also its children's: the sandbox reserves
    before the agent spends."""
    happened: list[Happened] = []
    """What the attempt before had yielded for."""


class Assign(Frozen, frozen=True, kw_only=True, tag_field="type", tag="assign"):
    assignments: list[Assignment]


class Cancel(Frozen, frozen=True, kw_only=True, tag_field="type", tag="cancel"):
    """Stop these, confirm that nothing of them is left, then send their results."""

    assignment_ids: list[str]
    reason: str


class Drain(Frozen, frozen=True, kw_only=True, tag_field="type", tag="drain"):
    """Take nothing new; exit when idle."""

    reason: str


class InputMessage(Frozen, frozen=True, kw_only=True):
    """A message of a person to the agent of an assignment."""

    assignment_id: str
    message_id: str
    mode: Literal["follow_up", "steer", "interrupt"]
    text: str


class Input(Frozen, frozen=True, kw_only=True, tag_field="type", tag="input"):
    """Hand these to their agents, oldest first. Sent again until an `InputState` has arrived, so the daemon
    hands each id over at most once."""

    messages: list[InputMessage]


Downstream = Welcome | Ack | Assign | Cancel | Drain | Input
