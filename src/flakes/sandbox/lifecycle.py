"""One assignment, from its acknowledged acceptance to its result.

It makes the directory, runs the driver, passes the log on, collects the outputs, runs the `verify` lines,
and says in one value how it all ended. When and whether it may start, and what becomes of the result, are
the daemon's business.

Invariants: `run` returns only when no process of the assignment is left. What stopped it first (a cancel,
the timeout, a stale assignment, the end of the daemon) decides the outcome; work that was done before is
not thrown away. Whatever a task does, the daemon lives: its troubles become its result.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from flakes.agents.base import (
    AgentError,
    AgentEvent,
    Decision,
    Driver,
    Installation,
    Job,
    Question,
    SessionRef,
    Tools,
    TurnResult,
)
from flakes.agents.registry import driver_for
from flakes.core.limits import KIB
from flakes.core.task import Outcome
from flakes.sandbox import brief as briefs
from flakes.sandbox import outputs
from flakes.sandbox.asking import Permissions
from flakes.sandbox.blobs import BlobClient, RefusedError
from flakes.sandbox.budgets import Budget
from flakes.sandbox.containment import Containment
from flakes.sandbox.conversation import Conversation
from flakes.sandbox.directory import (
    FREE_BYTES_MIN,
    TaskDirectory,
    disk_full,
    disk_full_error,
    environment,
)
from flakes.sandbox.inbox import Inbox
from flakes.sandbox.isolation import isolation_of
from flakes.sandbox.journal import Journal
from flakes.sandbox.loglines import LogSink
from flakes.sandbox.outbox import Outbox
from flakes.sandbox.sessions import Record, Sessions
from flakes.sandbox.spawn import Spawner
from flakes.sandbox.tools.forward import Forwarder
from flakes.sandbox.tools.mcp import McpEndpoint, offered
from flakes.sandbox.tools.server import ToolServer
from flakes.sandbox.transcript import TranscriptSink
from flakes.wire.codec import BodyError, decode, encode
from flakes.wire.config import SandboxConfig
from flakes.wire.errors import ApiError
from flakes.wire.sandbox_stream import Assignment, Result
from flakes.wire.tasks import Evidence, Output, TaskDefinition, TaskError, TaskWarning
from flakes.wire.workpads import Workpad

log = structlog.get_logger(__name__)

Stop = Literal["cancelled", "timeout", "stale", "stopping"]

TIMEOUT_GRACE_S: Final = 5.0
CANCEL_GRACE_S: Final = 2.0
LAST_WORDS_S: Final = 1.0
"""How long the driver may take to notice that its processes are gone."""
EVIDENCE_TAIL_BYTES: Final = 2 * KIB
TOOL_WORDS_MAX: Final = 500
"""How much of a tool's input the log shows; all of it is in the transcript."""
RESULT_BYTES_MAX: Final = 900 * KIB


class Services:
    """What every assignment of a daemon shares."""

    def __init__(self, config: SandboxConfig, journal: Journal, outbox: Outbox) -> None:
        self.config = config
        self.journal = journal
        self.outbox = outbox
        self.spawner = Spawner(isolation_of(config))
        self.blobs = BlobClient(config)
        self.forwarder = Forwarder(config)
        self.mcp = McpEndpoint()
        self.sessions = Sessions(Path(config.sessions_dir or Path(config.state_dir) / "sessions"))
        self.installation = Installation(
            tuple(config.agent.command), Path(d) if (d := config.agent.config_dir) else None
        )
        self.own_env: Mapping[str, str] = dict(os.environ)


class Lifecycle:
    """The run of one assignment; used once."""

    def __init__(
        self,
        assignment: Assignment,
        services: Services,
        directory: TaskDirectory,
        inbox: Inbox,
    ) -> None:
        self._assignment = assignment
        self._inbox = inbox
        self._services = services
        self._directory = directory
        self.has_directory = False
        self._sink = LogSink(assignment.assignment_id, services.outbox)
        self._containment = Containment(
            assignment.assignment_id,
            services.spawner,
            on_event=self._on_event,
            on_start=self._note_supervisor,
        )
        self._stop: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._timeout_s = 0.0
        self._tools: ToolServer | None = None
        self._mcp: Tools | None = None
        self._transcript: TranscriptSink | None = None
        self._conversation: Conversation | None = None
        self._earlier: Record | None = None
        self._outputs: dict[str, Output] = {}
        self._evidence: list[Evidence] = []
        self._warnings: list[TaskWarning] = []
        self._text = ""
        self._exit_code: int | None = None

    def stop(self, why: Stop) -> None:
        """End it; the first reason counts. Returns at once, `run` follows."""
        if not self._stop.done():
            self._stop.set_result(why)

    async def run(self) -> Result:
        """Do the work; nothing of it is left when this returns."""
        started_at_ms = _now_ms()
        body = asyncio.create_task(self._body(), name=f"task {self._assignment.task_key}")
        try:
            await asyncio.wait({body, self._stop}, return_when=asyncio.FIRST_COMPLETED)
            if body.done():
                outcome, error = body.result()
            else:
                why = self._stop.result()
                await self._containment.shut(_GRACE_S[why])
                await asyncio.wait({body}, timeout=LAST_WORDS_S)
                outcome, error = self._stopped(why)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            body.cancel()
            await self._inbox.close()
            await self._containment.shut(0)
            await asyncio.wait({body})
            if not body.cancelled():
                body.exception()  # looked at, so that it is not reported a second time
            if self._mcp is not None:
                self._services.mcp.remove(self._mcp)
            if self._tools is not None:
                await self._tools.close()
        if self._transcript is not None:
            self._transcript.flush()
        self._sink.close()
        if outcome in (Outcome.LOST, Outcome.RETRYABLE) and self._transcript is not None:
            await asyncio.to_thread(self._services.sessions.keep, self._directory)
        if self._services.journal.full or (error is not None and error.code == "disk_full"):
            # The result must become durable on the very disk that is full.
            await asyncio.to_thread(self._directory.remove)
        return Result(
            assignment_id=self._assignment.assignment_id,
            outcome=outcome,
            text=self._text,
            exit_code=self._exit_code,
            outputs=self._outputs,
            evidence=self._evidence,
            warnings=self._warnings,
            error=_task_error(error),
            started_at_ms=started_at_ms,
            ended_at_ms=_now_ms(),
        )

    async def _body(self) -> tuple[Outcome, AgentError | None]:
        try:
            return await self._work()
        except AgentError as error:
            self._exit_code = error.exit_code if self._exit_code is None else self._exit_code
            return _outcome_of(error), error
        except RefusedError as error:
            return Outcome.LOST, AgentError("control_plane_refused", str(error), lost=True)
        except (ApiError, BodyError) as error:
            return Outcome.LOST, AgentError("sandbox_broken", str(error), lost=True)
        except OSError as error:
            if disk_full(error):
                return Outcome.FAILED, disk_full_error(self._directory.root)
            message = f"the sandbox could not do its part: {error}"
            return Outcome.LOST, AgentError("sandbox_io_error", message, lost=True)

    async def _work(self) -> tuple[Outcome, AgentError | None]:
        assignment, services = self._assignment, self._services
        if assignment.definition is None:
            assignment = await services.blobs.assignment(assignment.assignment_id)
        definition = assignment.definition
        if definition is None:
            raise AgentError(
                "sandbox_broken", "the assignment came without its definition", lost=True
            )
        if definition.timeout_s is not None:
            self._timeout_s = definition.timeout_s
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(definition.timeout_s, self.stop, "timeout")
        driver = driver_for(definition.adapter)
        if driver is None:
            raise AgentError(
                "adapter_unknown",
                f"this sandbox has no adapter `{definition.adapter}`",
                "choose one that `flakes adapters` lists, or update the sandbox",
            )
        uses_directory = driver.capabilities().directory
        brief = briefs.brief_of(definition, assignment) if uses_directory else definition.body_markdown
        if uses_directory:
            self.has_directory = True
            await self._prepare(assignment, definition, brief)
        if driver.capabilities().converses:
            turn = await self._converse(driver, assignment, definition, brief)
        else:
            await driver.open(self._job(assignment, definition, brief), self._containment)
            inbox_file = self._directory.inbox if uses_directory else None
            self._inbox.open(driver, definition.adapter, inbox_file)
            turn = await driver.turn(brief, assignment.assignment_id)
        await self._inbox.close()
        await driver.close(TIMEOUT_GRACE_S)
        # Outputs are read when nobody writes them any more.
        await self._containment.gone()
        self._text, self._exit_code = turn.text, turn.exit_code
        if turn.status != "completed":
            return self._failed(turn, uses_directory=uses_directory)
        if definition.declared_outputs and uses_directory:
            self._outputs = await outputs.collect(
                definition.declared_outputs, self._directory.outputs, services.blobs, self._warn
            )
        for line in definition.verify if uses_directory else ():
            await self._verify(line)
        failing = [evidence for evidence in self._evidence if not evidence.passed]
        if failing:
            raise AgentError(
                "verify_failed",
                f"{len(failing)} of {len(self._evidence)} verify commands failed; the first is "
                f"`{failing[0].command}` with exit code {failing[0].exit_code}",
                "look at the evidence; the work itself had ended well",
            )
        return Outcome.SUCCEEDED, None

    async def _prepare(
        self, assignment: Assignment, definition: TaskDefinition, brief: str
    ) -> None:
        directory = self._directory
        directory.create(brief)
        for item in assignment.inputs:
            path = directory.input_path(item.task_key, item.output_key)
            if item.output.text is not None:
                path.write_text(item.output.text, newline="")
            elif item.output.kind == "workspace":
                self._sink.say(f"input {item.task_key}/{item.output_key} is a workspace: left out")
            else:
                await self._services.blobs.download(item.output.digest, path)
        await self._deliver_artifacts(assignment, definition)
        self._tools = await ToolServer.open(
            assignment.assignment_id,
            directory.root,
            self._services.forwarder,
            self._inbox.operations(),
        )
        self._containment.cwd = directory.work
        self._containment.env = environment(
            self._services.config, assignment, definition, directory, self._services.own_env
        ) | self._tools.env()
        self._containment.confine(directory.root, self._tools.directory, self._sink.say)

    async def _deliver_artifacts(self, assignment: Assignment, definition: TaskDefinition) -> None:
        """Bring the artifacts that the task names, one after the other, each verified."""
        artifacts = {each.artifact_id: each for each in assignment.artifacts}
        missing = [each for each in definition.input_artifacts if each not in artifacts]
        if missing:
            raise _artifact_missing(missing[0])
        if not artifacts:
            return
        needed_bytes = sum(each.size_bytes for each in artifacts.values())
        if needed_bytes + FREE_BYTES_MIN > self._directory.room_bytes():
            full = disk_full_error(self._directory.root)
            raise AgentError(full.code, f"{full.message}: {needed_bytes} bytes of inputs", full.fix)
        for key, path in self._directory.artifact_paths(list(artifacts.values())).items():
            each = artifacts[key]
            try:
                await self._services.blobs.download(each.digest, path, each.size_bytes)
            except RefusedError as error:
                if error.status == 404:
                    raise _artifact_missing(key) from error
                raise

    # ---- agents

    async def _converse(
        self, driver: Driver, assignment: Assignment, definition: TaskDefinition, brief: str
    ) -> TurnResult:
        """Open the agent's session and hold the conversation."""
        services, directory = self._services, self._directory
        job = await self._agent_job(assignment, definition, brief)
        transcript = TranscriptSink(
            assignment.assignment_id, services.outbox, secrets_of(job.env, services.config.env)
        )
        permissions = Permissions(
            assignment.assignment_id, definition.permission_mode or "auto", directory.outputs,
            services.forwarder, transcript,
        )  # fmt: skip
        self._transcript = transcript
        conversation = Conversation(
            driver, self._inbox, transcript, permissions, Budget(definition.budget, assignment.spent),
            lambda: self._problem(definition),
        )  # fmt: skip
        self._conversation = conversation

        async def permit(question: Question) -> Decision:
            return await permissions.permit(question, directory.work)

        self._containment.on_question = permit
        session = await driver.open(job, self._containment)
        await self._note_session(assignment, definition, session)
        self._inbox.open(conversation, definition.adapter, None)
        text, source = await self._opening(assignment, brief, session)
        return await conversation.run(text, assignment.assignment_id, source)

    async def _agent_job(
        self, assignment: Assignment, definition: TaskDefinition, brief: str
    ) -> Job:
        services, directory = self._services, self._directory
        assert self._tools is not None
        directory.home.mkdir(mode=0o700, exist_ok=True)  # an isolated task has one already
        directory.session.mkdir(mode=0o700)
        self._earlier = await asyncio.to_thread(
            services.sessions.take, assignment.task_id, definition.adapter, directory
        )
        self._mcp = await services.mcp.add(definition.tool_grants, self._tools.perform)
        instructions = directory.root / "instructions.md"
        tools = {name: operation for name, (_, operation) in offered(definition.tool_grants).items()}
        instructions.write_text(briefs.instructions_of(definition, self._containment.env, tools))
        job = self._job(assignment, definition, brief)
        return dataclasses.replace(
            job, home=directory.home, session_dir=directory.session, instructions=instructions,
            installation=services.installation, tools=self._mcp,
            session=self._earlier.session if self._earlier else None,
        )  # fmt: skip

    async def _note_session(
        self, assignment: Assignment, definition: TaskDefinition, session: SessionRef | None
    ) -> None:
        assert self._transcript is not None
        known = self._earlier.session if self._earlier else None
        record = Record(
            task_id=assignment.task_id, adapter=definition.adapter, attempt=assignment.attempt,
            kind=session.kind if session else "", value=session.value if session else "",
        )  # fmt: skip
        await asyncio.to_thread(self._services.sessions.note, self._directory, record)
        about = {"kind": record.kind, "value": record.value, "resumed": bool(session and session == known)}
        self._transcript.add("session", about | {"attempt": assignment.attempt})

    async def _opening(
        self, assignment: Assignment, brief: str, session: SessionRef | None
    ) -> tuple[str, str]:
        """What the agent hears first, and where that is from."""
        if self._earlier is not None and session is not None and session == self._earlier.session:
            return briefs.resumed(assignment.attempt, work_is_here=True), "resume"
        if assignment.attempt == 1 and self._earlier is None:
            return brief, "brief"
        assert self._tools is not None
        status, answer = await self._tools.perform("workpad.read", b"{}")
        try:
            workpad = decode(answer, Workpad).body_markdown if status == 200 else ""
        except BodyError:
            workpad = ""
        return briefs.briefing(brief, assignment.attempt, workpad), "briefing"

    async def _problem(self, definition: TaskDefinition) -> AgentError | None:
        """What is wrong with the declared outputs as they are now."""
        if not definition.declared_outputs:
            return None
        try:
            await outputs.check(definition.declared_outputs, self._directory.outputs)
        except AgentError as error:
            return None if error.lost or error.code == "output_unsupported" else error
        return None

    def _job(self, assignment: Assignment, definition: TaskDefinition, brief: str) -> Job:
        directory = self._directory
        return Job(
            assignment_id=assignment.assignment_id,
            task_key=assignment.task_key,
            attempt=assignment.attempt,
            title=definition.title,
            brief=brief,
            brief_path=directory.brief,
            cwd=directory.work,
            inputs_dir=directory.inputs,
            outputs_dir=directory.outputs,
            env=self._containment.env,
            input=definition.input or {},
            model=definition.model,
            effort=definition.effort,
            permission_mode=definition.permission_mode,
        )

    async def _verify(self, line: str) -> None:
        began_s = time.monotonic()
        tail = bytearray()
        process = await self._containment.spawn(["/bin/sh", "-c", line])

        async def pass_on(channel: Literal["stdout", "stderr"]) -> None:
            stream = process.stdout if channel == "stdout" else process.stderr
            while chunk := await stream.read():
                tail.extend(chunk)
                del tail[:-EVIDENCE_TAIL_BYTES]
                await self._sink.write(channel, chunk)

        async with asyncio.TaskGroup() as group:
            group.create_task(pass_on("stdout"))
            group.create_task(pass_on("stderr"))
        ended = await process.wait()
        await process.clean()
        duration_ms = int((time.monotonic() - began_s) * 1000)
        self._sink.say(f"verify `{line}`: exit code {ended.code} after {duration_ms} ms")
        self._evidence.append(
            Evidence(
                command=line,
                exit_code=ended.code,
                passed=ended.code == 0,
                tail=bytes(tail).decode("utf-8", "replace").replace("\0", "\ufffd"),
                duration_ms=duration_ms,
            )
        )

    def _failed(
        self, turn: TurnResult, *, uses_directory: bool
    ) -> tuple[Outcome, AgentError | None]:
        error = turn.error or AgentError("agent_failed", f"the agent's turn was {turn.status}")
        if uses_directory and not error.retryable and self._directory.is_disk_full():
            full = disk_full_error(self._directory.root)
            message = f"{full.message}; {error.message}"
            error = AgentError(full.code, message, full.fix, exit_code=error.exit_code)
        return _outcome_of(error), error

    def _stopped(self, why: Stop) -> tuple[Outcome, AgentError | None]:
        if why == "timeout":
            return Outcome.FAILED, AgentError(
                "timeout",
                f"the task did not end within {self._timeout_s:g} s and was stopped",
                "raise `timeoutS`, or split the task",
            )
        if why == "stopping":
            message = "the sandbox was stopped while the task ran"
            return Outcome.LOST, AgentError("sandbox_stopping", message, lost=True)
        return Outcome.CANCELLED, None

    def _warn(self, warning: TaskWarning) -> None:
        self._warnings.append(warning)
        self._sink.say(warning.message)

    async def _on_event(self, event: AgentEvent) -> None:
        data: Mapping[str, Any] = event.data
        if self._transcript is not None:
            await self._transcript.take(event)
        if self._conversation is not None:
            self._conversation.spent(event)
        match event.kind:
            case "output":
                await self._sink.write(data["channel"], data["chunk"])
            case "text":
                await self._sink.write("stdout", str(data["text"]).encode() + b"\n")
            case "notice":
                self._sink.say(str(data["text"]))
            case "tool" if data["state"] == "start":
                given = data.get("input")
                words = given if isinstance(given, str) else encode(given).decode()
                self._sink.say(f"{data['name']} {words[:TOOL_WORDS_MAX]}")
            case _:
                pass

    def _note_supervisor(self, pid: int, started: str) -> None:
        """For the daemon's successor. Not waited for: a supervisor does not outlive the daemon."""
        sql = "update assignments set state = 'running', pid = ?, pid_started = ? where assignment_id = ?"
        self._services.journal.write((sql, (pid, started, self._assignment.assignment_id)))


_GRACE_S: Final[dict[Stop, float]] = {
    "cancelled": CANCEL_GRACE_S,
    "timeout": TIMEOUT_GRACE_S,
    "stale": 0.0,
    "stopping": CANCEL_GRACE_S,
}


def secrets_of(*environments: Mapping[str, str]) -> set[str]:
    """Values of variables whose names say that they are secret."""
    return {
        value for env in environments for name, value in env.items()
        if any(word in name.upper() for word in ("KEY", "TOKEN", "SECRET", "PASSWORD"))
        and not name.endswith("_FILE")
    }  # fmt: skip


def fitted(result: Result) -> bytes:
    """The result as JSON that fits into a frame; what is only there to be looked at goes first."""
    body = encode(result)
    if len(body) <= RESULT_BYTES_MAX:
        return body
    evidence = [
        Evidence(
            command=item.command[:KIB],
            exit_code=item.exit_code,
            passed=item.passed,
            tail="[too large]",
            duration_ms=item.duration_ms,
        )
        for item in result.evidence
    ]
    return encode(
        Result(
            assignment_id=result.assignment_id,
            outcome=result.outcome,
            text=result.text,
            exit_code=result.exit_code,
            outputs=result.outputs,
            evidence=evidence,
            warnings=result.warnings,
            error=result.error,
            started_at_ms=result.started_at_ms,
            ended_at_ms=result.ended_at_ms,
        )
    )


def _artifact_missing(artifact_id: str) -> AgentError:
    return AgentError(
        "input_artifact_missing",
        f"the artifact {artifact_id}, an input of the task, was deleted after the task was admitted",
        "store it again, and submit a task that names the new one",
    )


def _outcome_of(error: AgentError) -> Outcome:
    if error.lost:
        return Outcome.LOST
    return Outcome.RETRYABLE if error.retryable else Outcome.FAILED


def _task_error(error: AgentError | None) -> TaskError | None:
    if error is None:
        return None
    return TaskError(
        code=error.code,
        message=error.message[: 2 * KIB],
        exit_code=error.exit_code,
        details=((error.details or {}) | ({"fix": error.fix} if error.fix else {})) or None,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def directory_of(state_dir: Path, assignment_id: str) -> TaskDirectory:
    """Where an assignment's files are; its id is one path segment, whatever the server sends."""
    name = (
        assignment_id if assignment_id.replace("_", "").isalnum() else assignment_id.encode().hex()
    )
    return TaskDirectory(state_dir / "assignments" / name)
