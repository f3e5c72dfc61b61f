"""What an agent driver is: the protocol, and the values that pass through it.

A driver knows one agent's wire and nothing else. It opens a session, takes turns in it, and closes it.
Everything that is the same for every agent (directories, inputs and outputs, budgets, retries, logs,
cancelling, killing, telling the control plane) belongs to the lifecycle that calls it. A driver reaches
the world through `Host` alone: it starts processes with `host.spawn`, which contains them, and reports
with `host.emit`. No client of the control plane reaches a driver.

Invariants: one driver object serves one attempt of one task; `turn` is never called twice at the same
time; a driver never decides whether a task succeeded, it only says how a turn ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver can do; static, known before anything is started."""

    directory: bool = True
    """Needs a working directory with brief, inputs and outputs. Without one, nothing touches the disk."""
    steer: bool = False
    """Takes messages while it works: said into its turn with `steer`, or as further turns."""
    inbox: bool = False
    """Reads messages by itself from the file `$FLAKES_INBOX`; the driver has nothing to do with them."""
    resume: bool = False
    """Can go on with its own session of an earlier attempt (`Job.session`)."""
    usage: bool = False
    converses: bool = False
    """An agent that takes any number of turns: it gets tools, corrections, and a transcript."""


@dataclass(frozen=True, slots=True)
class Check:
    """What `check` found: whether the agent can be used here, and what to do when it cannot.

    `signed_in` None: it cannot be told. `message` is what is wrong or strange, `fix` what to do about that or
    about signing in; `command` starts the agent."""

    usable: bool
    version: str = ""
    message: str = ""
    fix: str = ""
    signed_in: bool | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionRef:
    """An agent's own session: enough to resume it in a later attempt."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Installation:
    """Where an agent is on this machine. `command` starts it (else its usual name, found on the PATH);
    `config_dir` holds the user's own settings and credentials of it (else their usual place). `env` is for
    `check` alone: the environment in which the agent would be started."""

    command: tuple[str, ...] = ()
    config_dir: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the tools of the task are: an MCP endpoint (streamable HTTP) and the bearer that opens it."""

    url: str
    bearer: str


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt of one task, as a driver sees it. Paths are absolute.

    `env` is the complete environment of every process of the attempt; nothing is inherited beside it.
    `input` is the task's own, not yet checked: what is allowed in it is the driver's to say.
    `home` is private to the attempt; `session_dir` is the task's, and what an agent keeps there is there
    again in a later attempt that goes on with it. `instructions` is a file for the agent's system prompt.
    `ledger` is where credentials that are lent to the attempt are written down.
    """

    assignment_id: str
    task_key: str
    attempt: int
    title: str
    brief: str
    brief_path: Path
    cwd: Path
    inputs_dir: Path
    outputs_dir: Path
    env: Mapping[str, str]
    input: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    effort: str | None = None
    permission_mode: Literal["auto", "ask", "readOnly"] | None = None
    budget: Mapping[str, int] = field(default_factory=dict)
    """Upper bounds of the task, by name as in its definition."""
    session: SessionRef | None = None
    home: Path = Path("/nonexistent")
    session_dir: Path = Path("/nonexistent")
    ledger: Path = Path("/nonexistent")
    instructions: Path | None = None
    installation: Installation = Installation()
    tools: Tools | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, normalised: `input_total` includes what was cached, `output` the reasoning. `cost_usd` None:
    the agent does not say."""

    input_total: int = 0
    cached_read: int = 0
    cached_write: int = 0
    output: int = 0
    reasoning: int = 0
    cost_usd: float | None = None
    calls: int = 0

    def __add__(self, other: Usage) -> Usage:
        costs = [each for each in (self.cost_usd, other.cost_usd) if each is not None]
        return Usage(
            input_total=self.input_total + other.input_total,
            cached_read=self.cached_read + other.cached_read,
            cached_write=self.cached_write + other.cached_write,
            output=self.output + other.output,
            reasoning=self.reasoning + other.reasoning,
            cost_usd=sum(costs) if costs else None,
            calls=self.calls + other.calls,
        )


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """Something that happened inside a turn.

    `data` by kind: `output` {channel: stdout|stderr, chunk: bytes} (raw bytes as they came, lines may be
    cut anywhere); `text` {text} (what the agent said, a message at a time) and `thinking` {text}; `tool`
    {state: start|end, id, name, and input at its start, output and ok at its end}; `usage` {usage} (what
    was spent since the last one); `session` {session}; `notice` {level, text, code?} (a warning with a `code`
    is also one of the task's result); `record` {} (nothing but `raw`). `raw` is the agent's own record, for the transcript; never one that repeats earlier ones.
    """

    kind: Literal["output", "text", "thinking", "tool", "usage", "session", "notice", "record"]
    data: Mapping[str, Any]
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """An agent wants to do something and asks first. `id` is the agent's own, unique in the attempt;
    `effect` is what kind of thing it is, `paths` the files it would write, when that is all it would do."""

    id: str
    title: str
    effect: Literal["read", "write", "execute", "other"]
    details: Mapping[str, Any] = field(default_factory=dict)
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a question; `reason` is for the agent to read."""

    allowed: bool
    reason: str = ""


@dataclass(slots=True, eq=False)
class AgentError(Exception):
    """Why a turn failed. `code` is stable, `message` is a sentence, `fix` says what to do.

    `retryable`: the same turn may succeed later. `exit_code` is that of the agent's process, if it ended;
    a process ended by signal N has -N.
    """

    code: str
    message: str
    fix: str = ""
    retryable: bool = False
    lost: bool = False
    """The infrastructure failed under the agent: the attempt is not the user's failure."""
    exit_code: int | None = None
    details: dict[str, Any] | None = None
    """Facts about the failure, as JSON; bounded by whoever raises it."""

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class TurnResult:
    """How a turn ended. `text`: the agent's closing words (a command: the tail of its output)."""

    status: Literal["completed", "failed", "interrupted", "refused", "limit"]
    text: str = ""
    structured: Any = None
    error: AgentError | None = None
    exit_code: int | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: by itself with `code`, or by `signal` (then `code` is -signal). `out_of_memory`: by the
    system, because the task had reached the memory limit of its sandbox."""

    code: int
    signal: int | None = None
    out_of_memory: bool = False


class Output(Protocol):
    """One output stream of a process."""

    async def read(self) -> bytes:
        """Everything that has come since the last call; waits for something; empty at the end."""
        ...

    def lines(self, size_bytes_max: int = 16 * 1024 * 1024) -> AsyncIterator[bytes]:
        """Lines without their newline; one longer than the limit comes in pieces of that size."""
        ...


class Process(Protocol):
    """A started process and, through it, everything that it starts."""

    @property
    def stdout(self) -> Output: ...

    @property
    def stderr(self) -> Output: ...

    async def write(self, data: bytes) -> None:
        """Write to its standard input (only when it was spawned with `stdin="pipe"`)."""
        ...

    def close_stdin(self) -> None: ...

    async def wait(self) -> Exit:
        """Until the process itself has ended. Raises `AgentError` when its end could not be observed."""
        ...

    async def terminate(self, grace_s: float) -> None:
        """Ask it to end, wait at most `grace_s`, kill the whole tree, wait until none of it is left."""
        ...


class Host(Protocol):
    """All that a driver may ask of its surroundings."""

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: Path | Literal["pipe"] | None = None,
    ) -> Process:
        """Start a contained process; `env` and `cwd` default to the job's. `stdin`: a file to read from, a
        pipe to write to, or nothing. Raises `AgentError` (`command_not_found`, `command_not_executable`,
        `disk_full`, `spawn_failed`)."""
        ...

    async def emit(self, event: AgentEvent) -> None:
        """Report an event. Waits while the receiver is behind: that is how an agent is slowed down."""
        ...

    async def permit(self, question: Question) -> Decision:
        """Whether the agent may; waits for as long as somebody takes to answer."""
        ...


class Driver(Protocol):
    """One agent's wire."""

    def capabilities(self) -> Capabilities: ...

    async def check(self, installation: Installation) -> Check:
        """For diagnosis only: is the agent here, in which version, signed in? With `installation.env`."""
        ...

    async def open(self, job: Job, host: Host) -> SessionRef | None:
        """Prepare the session: validate `job.input`, start the agent, resume when `job.session` is given.
        Raises `AgentError`."""
        ...

    async def turn(
        self, text: str, op_id: str, schema: Mapping[str, Any] | None = None
    ) -> TurnResult:
        """Give the agent `text` and return when it has settled. Raises `AgentError` when it never began."""
        ...

    async def steer(
        self, text: str, op_id: str
    ) -> Literal["injected", "queued", "idle", "unsupported"]:
        """Say something into a running turn; `idle` means there is none."""
        ...

    async def interrupt(self) -> None:
        """End the turn, keep the session; `turn` returns `interrupted`."""
        ...

    async def close(self, grace_s: float) -> None:
        """Orderly end of the session. Killing is the host's business."""
        ...
