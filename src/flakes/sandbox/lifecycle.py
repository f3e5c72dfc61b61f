"""One assignment, from its acknowledged acceptance to its result: which step comes when.

`_prepare` (directory, inputs, tools, isolation), the driver's turns, `_collect` (outputs, `verify` lines) when
they ended well, and `_leave` however they ended. What comes into a task's directory before anything of it
starts belongs into the first, what is taken out of it into the last two. When and whether it may start, and
what becomes of the result, are the daemon's business.

Invariants: `run` returns only when no process of the assignment is left, and `_leave` begins only then. What
stopped it first (a cancel, the timeout, a stale assignment, the end of the daemon) decides the outcome; work
that was done before is not thrown away. Whatever a task does, the daemon lives: its troubles become its result.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from flakes.agents.base import AgentError, AgentEvent, Driver, Job, TurnResult
from flakes.agents.programs import files_of
from flakes.agents.registry import driver_for
from flakes.core.task import Outcome
from flakes.sandbox import brief as briefs
from flakes.sandbox import inputs, outputs
from flakes.sandbox.attendance import Attendance
from flakes.sandbox.blobs import RefusedError
from flakes.sandbox.budgets import bounds
from flakes.sandbox.containment import Containment
from flakes.sandbox.directory import TaskDirectory, disk_full, disk_full_error, environment
from flakes.sandbox.extending import Extending
from flakes.sandbox.inbox import Inbox
from flakes.sandbox.loglines import LogSink
from flakes.sandbox.overlaps import Lookout
from flakes.sandbox.results import outcome_of, task_error
from flakes.sandbox.services import Services
from flakes.sandbox.tools.server import ToolServer
from flakes.sandbox.verification import judge, verify
from flakes.sandbox.workspaces import Ended, Workspace, salvage, taken_up
from flakes.wire.codec import BodyError, encode
from flakes.wire.errors import ApiError
from flakes.wire.sandbox_stream import Assignment, Result
from flakes.wire.tasks import Evidence, Output, TaskDefinition, TaskWarning
from flakes.wire.workspaces import OwnWorkspace

log = structlog.get_logger(__name__)

Stop = Literal["cancelled", "timeout", "stale", "stopping"]
Ending = tuple[Outcome, AgentError | None]

TIMEOUT_GRACE_S: Final = 5.0
CANCEL_GRACE_S: Final = 2.0
LAST_WORDS_S: Final = 1.0
"""How long the driver may take to notice that its processes are gone."""
LAST_FILES_S: Final = 15.0
"""How long an attempt that nobody waits for may take to store what it had changed."""
TOOL_WORDS_MAX: Final = 500
"""How much of a tool's input the log shows; all of it is in the transcript."""


class Lifecycle:
    """The run of one assignment; used once."""

    def __init__(
        self,
        assignment: Assignment,
        services: Services,
        directory: TaskDirectory,
        inbox: Inbox,
        ending: Ended | None = None,
    ) -> None:
        """`ending`: the task itself has ended already, before a restart of the daemon."""
        self._assignment = assignment
        self._ending = ending
        self._inbox = inbox
        self._services = services
        self._directory = directory
        self.has_directory = False
        self._sink = LogSink(
            assignment.assignment_id, services.outbox, ending.next_line if ending else 0
        )
        self._workspace = Workspace(
            assignment.assignment_id, directory, services.packs, services.blobs,
            isolation=services.spawner.isolation,
        )  # fmt: skip
        self._lookout = Lookout(
            assignment.assignment_id, directory.work, directory.store, services.forwarder,
            self._sink.say, isolated=services.spawner.isolation is not None,
        )  # fmt: skip
        self._stored = False
        """Its files are stored, as far as they have changed."""
        self._containment = Containment(
            assignment.assignment_id,
            services.spawner,
            on_event=self._on_event,
            on_start=self._note_supervisor,
        )
        self._stop: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self._started_at_ms = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timeout_s = 0.0
        self._tools: ToolServer | None = None
        self._attendance: Attendance | None = None
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
        self._started_at_ms = self._ending.started_at_ms if self._ending else _now_ms()
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
            await self._end(body)
        await self._leave(outcome, error)
        return Result(
            assignment_id=self._assignment.assignment_id,
            outcome=outcome,
            text=self._text,
            exit_code=self._exit_code,
            outputs=self._outputs,
            evidence=self._evidence,
            warnings=self._warnings,
            error=task_error(error),
            started_at_ms=self._started_at_ms,
            ended_at_ms=_now_ms(),
        )

    async def _end(self, body: asyncio.Task[Ending]) -> None:
        """Until nothing of it runs, and nothing of it can ask for anything."""
        if self._timer is not None:
            self._timer.cancel()
        body.cancel()
        await self._inbox.close()
        await self._lookout.close()
        await self._containment.shut(0)
        await asyncio.wait({body})
        if not body.cancelled():
            body.exception()  # looked at, so that it is not reported a second time
        if self._attendance is not None:
            self._attendance.withdraw()
        if self._tools is not None:
            await self._tools.close()

    async def _leave(self, outcome: Outcome, error: AgentError | None) -> None:
        """What is kept of an attempt, however it ended, before its result is said."""
        if not self._stored:
            hurried = self._stop.done() and self._stop.result() in ("stale", "stopping")
            await salvage(self._workspace, self._warn, LAST_FILES_S if hurried else None)
        if self._attendance is not None:
            await self._attendance.close(outcome)
        self._sink.close()
        if self._services.journal.full or (error is not None and error.code == "disk_full"):
            # The result must become durable on the very disk that is full.
            await asyncio.to_thread(self._directory.remove)

    async def _body(self) -> Ending:
        try:
            return await self._work()
        except AgentError as error:
            self._exit_code = error.exit_code if self._exit_code is None else self._exit_code
            return outcome_of(error), error
        except RefusedError as error:
            return Outcome.LOST, AgentError("control_plane_refused", str(error), lost=True)
        except (ApiError, BodyError) as error:
            return Outcome.LOST, AgentError("sandbox_broken", str(error), lost=True)
        except OSError as error:
            if disk_full(error):
                return Outcome.FAILED, disk_full_error(self._directory.root)
            message = f"the sandbox could not do its part: {error}"
            return Outcome.LOST, AgentError("sandbox_io_error", message, lost=True)

    async def _work(self) -> Ending:
        assignment, definition = await self._understood()
        if self._ending is not None:
            self.has_directory = True
            self._text, self._exit_code = self._ending.text, self._ending.exit_code
            await asyncio.to_thread(self._directory.reclaim)
            await self._surround(assignment, definition, ())
            await self._collect(definition)
            return Outcome.SUCCEEDED, None
        driver = _driver(definition)
        able = driver.capabilities()
        brief = briefs.brief_of(definition, assignment) if able.directory else definition.body_markdown
        if able.directory:
            self.has_directory = True
            programs = self._programs(definition) if able.converses else ()
            again = taken_up(assignment, converses=able.converses)
            await self._prepare(assignment, definition, brief, programs, again)
            self._lookout.begin()
        job = self._job(assignment, definition, brief)
        if able.converses:
            turn = await self._attend(driver, job, assignment, definition)
        else:
            await driver.open(job, self._containment)
            inbox_file = self._directory.inbox if able.directory else None
            self._inbox.open(driver, definition.adapter, inbox_file)
            turn = await driver.turn(brief, assignment.assignment_id)
        await self._inbox.close()
        await driver.close(TIMEOUT_GRACE_S)
        # Outputs are read when nobody writes them any more.
        await self._containment.gone()
        await self._lookout.close()
        self._text, self._exit_code = turn.text, turn.exit_code
        if able.converses and self._tools is not None and self._tools.yielding:
            return Outcome.YIELDED, None
        if turn.status != "completed":
            return self._failed(turn, uses_directory=able.directory)
        if able.directory:
            await self._note_ending()
            await self._collect(definition)
        return Outcome.SUCCEEDED, None

    async def _understood(self) -> tuple[Assignment, TaskDefinition]:
        """The assignment whole, and its definition; the timeout begins."""
        assignment = self._assignment
        if assignment.definition is None:
            assignment = await self._services.blobs.assignment(assignment.assignment_id)
        definition = assignment.definition
        if definition is None:
            raise AgentError(
                "sandbox_broken", "the assignment came without its definition", lost=True
            )
        if definition.timeout_s is not None and self._ending is None:
            self._timeout_s = definition.timeout_s
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(definition.timeout_s, self.stop, "timeout")
        return assignment, definition

    def _programs(self, definition: TaskDefinition) -> tuple[tuple[Path, Path], ...]:
        """The agent's own program, which an isolated task sees too. Looked for where the daemon finds
        programs, whatever PATH the task asks for."""
        services = self._services
        path = services.config.env.get("PATH") or services.own_env.get("PATH", os.defpath)
        return files_of(services.installation.command or (definition.adapter,), path)

    async def _prepare(
        self,
        assignment: Assignment,
        definition: TaskDefinition,
        brief: str,
        programs: tuple[tuple[Path, Path], ...],
        again: OwnWorkspace | None,
    ) -> None:
        """Everything that the task finds, before any process of it starts."""
        directory, services = self._directory, self._services
        directory.create(brief)
        await self._workspace.prepare(assignment, again=again)
        if again is not None:
            self._sink.say(f"the files are as an earlier attempt left them, which {_ENDED[again.after]}")
        await inputs.deliver_outputs(assignment, directory, services.blobs)
        await inputs.deliver_artifacts(assignment, definition, directory, services.blobs)
        await self._surround(assignment, definition, programs)

    async def _surround(
        self,
        assignment: Assignment,
        definition: TaskDefinition,
        programs: tuple[tuple[Path, Path], ...],
    ) -> None:
        """Its tools, its environment and its isolation."""
        directory, services = self._directory, self._services
        self._tools = await ToolServer.open(
            assignment.assignment_id,
            directory.root,
            Extending(services.forwarder),
            {**self._inbox.operations(), **self._workspace.operations()},
        )
        self._containment.cwd = directory.work
        self._containment.env = environment(
            services.config, assignment, definition, directory, services.own_env
        ) | self._tools.env()
        self._containment.confine(directory.root, self._tools.directory, self._sink.say, programs)

    async def _attend(
        self, driver: Driver, job: Job, assignment: Assignment, definition: TaskDefinition
    ) -> TurnResult:
        assert self._tools is not None
        self._attendance = Attendance(
            assignment, definition, self._services, self._directory, self._containment, self._tools
        )
        return await self._attendance.run(driver, job, self._inbox)

    async def _note_ending(self) -> None:
        """From here on a successor of this daemon goes on, and does not begin the task again (F04)."""
        if self._workspace.record is None:
            return
        self._sink.flush()
        await self._services.journal.durable()
        ending = Ended(
            text=self._text, exit_code=self._exit_code, started_at_ms=self._started_at_ms,
            next_line=self._sink.next_line,
        )  # fmt: skip
        await asyncio.to_thread(self._workspace.note, ending)

    async def _collect(self, definition: TaskDefinition) -> None:
        """What the task promised, and whether it holds; no process of it is left."""
        if definition.declared_outputs:
            self._outputs = await outputs.collect(
                definition.declared_outputs, self._directory.outputs, self._services.blobs, self._warn
            )
        self._outputs |= await self._workspace.outputs(definition.declared_outputs, self._warn)
        self._stored = True
        for line in definition.verify:
            self._evidence.append(await verify(line, self._containment, self._sink))
        judge(self._evidence)

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
            budget=bounds(definition.budget),
        )

    def _failed(self, turn: TurnResult, *, uses_directory: bool) -> Ending:
        error = turn.error or AgentError("agent_failed", f"the agent's turn was {turn.status}")
        if uses_directory and not error.retryable and self._directory.is_disk_full():
            full = disk_full_error(self._directory.root)
            message = f"{full.message}; {error.message}"
            error = AgentError(full.code, message, full.fix, exit_code=error.exit_code)
        return outcome_of(error), error

    def _stopped(self, why: Stop) -> Ending:
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
        if self._attendance is not None:
            await self._attendance.take(event)
        match event.kind:
            case "output":
                await self._sink.write(data["channel"], data["chunk"])
            case "text":
                await self._sink.write("stdout", str(data["text"]).encode() + b"\n")
            case "notice" if data.get("code"):
                self._warn(TaskWarning(code=str(data["code"]), message=str(data["text"])))
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


_ENDED: Final = {"yielded": "waited", "lost": "was lost"}
_GRACE_S: Final[dict[Stop, float]] = {
    "cancelled": CANCEL_GRACE_S,
    "timeout": TIMEOUT_GRACE_S,
    "stale": 0.0,
    "stopping": CANCEL_GRACE_S,
}


def _driver(definition: TaskDefinition) -> Driver:
    driver = driver_for(definition.adapter)
    if driver is None:
        raise AgentError(
            "adapter_unknown",
            f"this sandbox has no adapter `{definition.adapter}`",
            "choose one that `flakes adapters` lists, or update the sandbox",
        )
    return driver


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
