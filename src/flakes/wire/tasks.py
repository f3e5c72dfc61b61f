"""Tasks: their definition (immutable once admitted), what they are now, and what they gave."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen
from flakes.wire.transcripts import AgentUsage
from flakes.wire.workpads import WorkpadMetadata

ARTIFACTS: Final = "artifacts"
"""Where input artifacts are among the inputs of a task, beside the keys of its dependencies."""

Count = Annotated[int, Meta(ge=0)]


class RetryPolicy(Body, frozen=True, kw_only=True):
    """How often the work itself is tried. Losses of infrastructure are retried apart from this."""

    max_attempts: Annotated[int, Meta(ge=1, le=limits.ATTEMPTS_MAX)] = 1
    backoff_s: Annotated[float, Meta(ge=0, le=86_400)] = 1.0
    max_backoff_s: Annotated[float, Meta(ge=0, le=86_400)] = 300.0


class OutputDeclaration(Body, frozen=True, kw_only=True):
    """What a task promises to leave behind under a key."""

    kind: Literal["text", "json", "workspace"] = "text"
    required: bool = True
    schema: dict[str, Any] | None = None
    """JSON Schema (2020-12) that a `json` output must satisfy."""
    paths: list[str] = []
    max_bytes: Annotated[int, Meta(ge=1, le=limits.OUTPUT_SIZE_BYTES_MAX)] = (
        limits.OUTPUT_SIZE_BYTES_DEFAULT
    )


class TaskBudget(Body, frozen=True, kw_only=True):
    """Upper bounds; absent means unlimited."""

    children: Count | None = None
    tokens: Count | None = None
    cost_micro_usd: Count | None = None
    wall_ms: Count | None = None


class LiveIdle(Body, frozen=True, kw_only=True):
    """What becomes of a live task that nobody prompts: after `afterS` without a prompt it gets none any more, and
    should end; when it has not after `graceS`, it is cancelled."""

    after_s: Annotated[float, Meta(gt=0, le=limits.WAIT_S_MAX)] = limits.LIVE_IDLE_S_DEFAULT
    grace_s: Annotated[float, Meta(gt=0, le=limits.WAIT_S_MAX)] = limits.LIVE_GRACE_S_DEFAULT


class TaskDefinition(Body, frozen=True, kw_only=True, omit_defaults=True):
    """The user's intent. Everything here is immutable once the task is admitted."""

    title: Annotated[str, Meta(min_length=1, max_length=limits.TITLE_LENGTH_MAX)]
    adapter: Annotated[str, Meta(min_length=1, max_length=limits.KEY_LENGTH_MAX)]
    task_key: str | None = None
    """Required in a graph; in a route with the key in its path it may be left out."""
    body_markdown: str = ""
    acceptance: Annotated[
        list[Annotated[str, Meta(max_length=limits.ACCEPTANCE_LENGTH_MAX)]],
        Meta(max_length=limits.ACCEPTANCE_COUNT_MAX),
    ] = []
    input: dict[str, Any] | None = None
    """What the adapter takes; for `command`: `{"shell": line}` or `{"argv": [...]}`, and `env`."""
    depends_on: Annotated[list[str], Meta(max_length=limits.DEPENDENCIES_PER_TASK_MAX)] = []
    dependency_failure_policy: Literal["fail", "cancel", "wait", "continue"] = "fail"
    required_capabilities: Annotated[list[str], Meta(max_length=limits.CAPABILITIES_MAX)] = []
    tool_grants: Annotated[list[str], Meta(max_length=limits.CAPABILITIES_MAX)] = []
    priority: Annotated[int, Meta(ge=-limits.PRIORITY_MAX, le=limits.PRIORITY_MAX)] = 0
    retry: RetryPolicy = RetryPolicy()
    timeout_s: Annotated[float, Meta(gt=0, le=limits.TIMEOUT_S_MAX)] | None = None
    optional: bool = False
    declared_outputs: Annotated[
        dict[str, OutputDeclaration], Meta(max_length=limits.DECLARED_OUTPUTS_MAX)
    ] = {}
    verify: Annotated[list[str], Meta(max_length=limits.VERIFY_COMMANDS_MAX)] = []
    """Command lines that must pass before the task counts as succeeded."""
    workspace_inputs: Annotated[dict[str, str], Meta(max_length=limits.WORKSPACE_INPUTS_MAX)] = {}
    """Ids of workspaces by the name of the directory that they are mounted as, beside `work`."""
    input_artifacts: Annotated[list[str], Meta(max_length=limits.INPUT_ARTIFACTS_MAX)] = []
    """Ids; each is a file in `inputs/artifacts/` of the task, at most 10 GiB together."""
    budget: TaskBudget | None = None
    model: str | None = None
    effort: str | None = None
    live_rounds: bool = False
    live_idle: LiveIdle | None = None
    """Of a task with `liveRounds`; without it a day, and a minute to end."""
    permission_mode: Literal["auto", "ask", "readOnly"] | None = None
    metadata: dict[str, Any] = {}


class Blob(Frozen, frozen=True, kw_only=True):
    """Bytes in the content-addressed store."""

    digest: str
    size_bytes: int


class Output(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """One collected output: inline when small, else a reference."""

    kind: Literal["text", "json", "workspace"]
    size_bytes: int
    digest: str
    text: str | None = None
    """The content when it is at most 8 KiB (JSON outputs as their text)."""
    workspace_id: str | None = None
    """The handle, of a workspace output; its content is JSON that tells of it."""


class Evidence(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """What a `verify` command showed."""

    command: str
    exit_code: int
    passed: bool
    tail: str = ""
    duration_ms: int = 0


class TaskError(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """Why a task or an attempt did not succeed."""

    code: str
    message: str
    exit_code: int | None = None
    details: dict[str, Any] | None = None


class TaskWarning(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """What is not as it should be without failing the task; `output` is the key that it is about.

    Codes: `output_missing`, `output_too_large`, `output_invalid`, `output_unreadable`, `output_unsupported`,
    `workspace_path_refused`, `workspace_not_stored`; of the agent, `agent_untested`.
    """

    code: str
    message: str
    output: str | None = None


class TaskResult(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """What a task left behind; of the attempt that decided it."""

    task_id: str
    status: str
    text: str = ""
    """The agent's own closing words, or the tail of a command's output."""
    exit_code: int | None = None
    outputs: dict[str, Output] = {}
    verified: bool | None = None
    """True and False are backed by `evidence`; None means claimed only: nothing was verified."""
    evidence: list[Evidence] = []
    warnings: list[TaskWarning] = []
    error: TaskError | None = None
    attempt: int | None = None
    assignment_id: str | None = None
    sandbox_id: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Attempt(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """One assignment of a task; all of them stay readable."""

    assignment_id: str
    attempt: int
    sandbox_id: str
    state: str
    offered_at: datetime
    accepted_at: datetime | None = None
    ended_at: datetime | None = None
    reason: str | None = None


class RunAttempt(Attempt, frozen=True, kw_only=True, omit_defaults=True):
    """An attempt among those of all tasks of a run."""

    task_id: str


class RunAttempts(Frozen, frozen=True, kw_only=True):
    """A page of attempts, oldest first."""

    attempts: list[RunAttempt]
    next_cursor: str | None = None


class Explanation(Frozen, frozen=True, kw_only=True):
    """Why a task is not running, from stored facts."""

    code: str
    sentence: str
    evidence: dict[str, Any]
    next_action: str


class TaskExplained(Frozen, frozen=True, kw_only=True):
    """A task that does not move, and why."""

    task_id: str
    task_key: str
    status: str
    explanation: Explanation


class TasksExplained(Frozen, frozen=True, kw_only=True):
    """A page of them: first those that wait for a person, then what is ready, then what waits for others."""

    tasks: list[TaskExplained]
    next_cursor: str | None = None


class Task(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A task in lists: no payloads, whatever their size (F27)."""

    task_id: str
    task_key: str
    run_id: str
    project_id: str
    title: str
    adapter: str
    status: str
    optional: bool = False
    priority: int = 0
    attempt: int = 1
    depends_on: list[str] = []
    created_at: datetime
    admitted_at: datetime | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    next_attempt_at: datetime | None = None
    sandbox_id: str | None = None
    cancel_requested: bool = False
    error: TaskError | None = None
    workpad: WorkpadMetadata | None = None


class TaskDetail(Task, frozen=True, kw_only=True, omit_defaults=True):
    """One task, read by itself: the definition and its attempts are there."""

    run_key: str
    project_key: str
    definition: dict[str, Any]
    parent_task_key: str | None = None
    """Of the task that made this one."""
    attempts: list[Attempt] = []
    usage: AgentUsage | None = None
    """What its agents have spent, over all attempts."""
    explanation: Explanation | None = None


class Tasks(Frozen, frozen=True, kw_only=True):
    """A page of tasks."""

    tasks: list[Task]
    next_cursor: str | None = None


class Reason(Body, frozen=True, kw_only=True):
    """Body of cancel and close: why, in the user's words."""

    reason: Annotated[str, Meta(max_length=2_000)] | None = None


class Admit(Body, frozen=True, kw_only=True):
    """Body of admit: exactly one of the two."""

    task_keys: list[str] | None = None
    all: bool = False


class LogEntry(Frozen, frozen=True, kw_only=True):
    """One line of a task's log; `cursor` resumes after it."""

    cursor: str
    at: datetime
    channel: str
    """`stdout`, `stderr` or `system`."""
    text: str
    assignment_id: str


class Logs(Frozen, frozen=True, kw_only=True):
    """A page of log lines, oldest first. `nextCursor` is there even at the end: pass it to follow."""

    logs: list[LogEntry]
    next_cursor: str | None = None


def definition_of(data: bytes) -> TaskDefinition:
    """A stored definition back as a struct."""
    return msgspec.json.decode(data, type=TaskDefinition)
