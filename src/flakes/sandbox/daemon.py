"""The sandbox daemon: which assignments it holds, in which state, and what moves them.

``pending`` (accepted here, the acceptance not yet acknowledged) → ``accepted`` / ``running`` → ``ended``
(the result is in the journal, not yet acknowledged) → forgotten. Messages come from the uplink and go
through the outbox; the work of one assignment is `lifecycle`'s.

Invariants: nothing starts before the acknowledgement of its acceptance is itself in the journal, so that
no assignment is ever started twice, whenever the daemon dies. A result is said only when nothing of the
assignment is left. What an earlier daemon had running is made sure to be gone and reported lost. Offers
are declined, never queued, beyond `maxConcurrency`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict, deque
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from flakes import __version__
from flakes.agents import credentials
from flakes.agents.registry import DRIVERS
from flakes.core.task import Outcome
from flakes.sandbox import processes
from flakes.sandbox.directory import TaskDirectory, directory_of
from flakes.sandbox.inbox import Inbox
from flakes.sandbox.isolation import described
from flakes.sandbox.journal import Journal, Row, Statement
from flakes.sandbox.lifecycle import Lifecycle
from flakes.sandbox.outbox import Outbox
from flakes.sandbox.results import fitted
from flakes.sandbox.services import Services
from flakes.sandbox.uplink import Uplink
from flakes.sandbox.workspaces import Ended, Workspace, salvage
from flakes.wire.codec import BodyError, decode, encode
from flakes.wire.config import SandboxConfig
from flakes.wire.sandbox_stream import (
    PROTOCOL,
    Accepted,
    Ack,
    Assign,
    Assignment,
    Cancel,
    Declined,
    Drain,
    Hello,
    Input,
    InputState,
    InventoryItem,
    Result,
    Welcome,
)
from flakes.wire.tasks import TaskError, TaskWarning

log = structlog.get_logger(__name__)

FLUSH_S: Final = 5.0
PREDECESSOR_PATIENCE_S: Final = 10.0

_INSERT: Final = (
    "insert into assignments (assignment_id, state, payload, directory) values (?, 'pending', ?, ?)"
)
_ACCEPT: Final = "update assignments set state = 'accepted' where assignment_id = ?"
_END: Final = "update assignments set state = 'ended', payload = x'' where assignment_id = ?"
_DELETE: Final = "delete from assignments where assignment_id = ?"


@dataclass(slots=True, eq=False)
class Held:
    """An assignment in the daemon's hands. `deciding_seq` is the message whose ack moves it on."""

    assignment_id: str
    state: str
    directory: TaskDirectory
    deciding_seq: int = 0
    assignment: Assignment | None = None
    lifecycle: Lifecycle | None = None
    inbox: Inbox | None = None
    has_directory: bool = True


class Daemon:
    """One sandbox's daemon; `serve` runs until it is drained or stopped."""

    def __init__(self, config: SandboxConfig, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self._outbox = Outbox(journal)
        self._services = Services(config, journal, self._outbox)
        self._isolation = described(config, self._services.spawner.isolation)
        self._state_dir = Path(config.state_dir)
        self._boot = secrets.token_hex(8)
        self._held: dict[str, Held] = {}
        self._undecided: deque[Held] = deque()
        """Everything that waits for an ack, by its sequence number."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._adapters = [name for name in config.adapters if name in DRIVERS]
        self._draining = False
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()

    async def serve(self) -> int:
        """Exit code: 0 when drained or stopped, 1 when the journal went bad."""
        unknown = sorted(set(self._config.adapters) - set(self._adapters))
        if unknown:
            log.error("adapters not known to this version, not offered", adapters=unknown)
        if self._services.spawner.isolation is not None:
            await asyncio.to_thread(self._services.spawner.isolation.start)
        name, degree, reason = self._isolation
        log.info("isolation", isolation=name, limits=degree, limits_reason=reason)
        await self._outbox.load()
        await self._recover()
        if self._services.spawner.isolation is not None:
            self._services.spawner.isolation.take_over()
        uplink = asyncio.create_task(Uplink(self._config, self._outbox, self).run(), name="uplink")
        if any(name != "noop" for name in self._adapters):
            self._services.spawner.warm()
        stopped = asyncio.create_task(self._stopping.wait())
        idle = asyncio.create_task(self._idle.wait())
        ends = {uplink, stopped, idle, self._journal.broken}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                await self._wind_down()
            if uplink.done():
                uplink.result()
        finally:
            for task in (uplink, stopped, idle):
                task.cancel()
            await asyncio.wait({uplink, stopped, idle})
            await self._services.close()
        log.info("ends", drained=idle.done() and not idle.cancelled())
        return 1 if self._journal.broken.done() else 0

    def stop(self) -> None:
        """End soon (SIGTERM): running work is killed and reported lost."""
        self._stopping.set()

    # ---- what the uplink asks and tells -------------------------------------------------------------

    def hello(self) -> Hello:
        states = {"pending": "pending", "ended": "ended"}
        return Hello(
            protocol=PROTOCOL,
            sandbox_id=self._config.sandbox_id,
            boot=self._boot,
            version=__version__,
            max_concurrency=self._config.max_concurrency,
            adapters=self._adapters,
            capabilities=self._config.capabilities,
            isolation=self._isolation[0],
            limits=self._isolation[1],
            limits_reason=self._isolation[2],
            assignments=[
                InventoryItem(
                    assignment_id=held.assignment_id,
                    state=states.get(held.state, "running"),  # type: ignore[arg-type]
                )
                for held in self._held.values()
            ],
        )

    def running(self) -> int:
        return sum(held.state != "ended" for held in self._held.values())

    def on_welcome(self, welcome: Welcome) -> None:
        for assignment_id in welcome.drop:
            self._forget(assignment_id)

    def on_assign(self, assign: Assign) -> None:
        for assignment in assign.assignments:
            if assignment.assignment_id in self._held:
                continue
            reason = self._objection(assignment)
            if reason:
                declined = Declined(assignment_id=assignment.assignment_id, reason=reason)
                self._outbox.append(assignment.assignment_id, encode(declined))
                continue
            directory = directory_of(self._state_dir, assignment.assignment_id)
            held = Held(assignment.assignment_id, "pending", directory, assignment=assignment)
            held.inbox = self._inbox(held.assignment_id)
            self._held[held.assignment_id] = held
            row = (held.assignment_id, encode(assignment), str(directory.root))
            accepted = encode(Accepted(assignment_id=held.assignment_id))
            held.deciding_seq = self._outbox.append(held.assignment_id, accepted, (_INSERT, row))
            self._undecided.append(held)

    def on_ack(self, ack: Ack) -> None:
        stale = set(ack.stale)
        statements: list[Statement] = []
        started: list[Held] = []
        while self._undecided and self._undecided[0].deciding_seq <= ack.seq:
            held = self._undecided.popleft()
            if held.assignment_id in stale or self._held.get(held.assignment_id) is not held:
                continue
            if held.state == "pending":
                held.state = "accepted"
                statements.append((_ACCEPT, (held.assignment_id,)))
                started.append(held)
            else:
                self._clean_up(held)
        self._outbox.ack(ack.seq, *statements)
        for held in started:
            self._start(held)
        for assignment_id in stale:
            self._forget(assignment_id)
        self._look_whether_idle()

    def on_cancel(self, cancel: Cancel) -> None:
        for assignment_id in cancel.assignment_ids:
            held = self._held.get(assignment_id)
            if held is None:
                # Nothing of it is here, which is what a cancelled result says.
                self._append_result(assignment_id, Outcome.CANCELLED)
            elif held.lifecycle is not None:
                held.lifecycle.stop("cancelled")
            elif held.state == "pending":
                self._end(held, Result(assignment_id=assignment_id, outcome=Outcome.CANCELLED))

    def on_drain(self, drain: Drain) -> None:
        if not self._draining:
            log.info("draining", reason=drain.reason, held=len(self._held))
        self._draining = True
        self._look_whether_idle()

    def on_input(self, frame: Input) -> None:
        for message in frame.messages:
            held = self._held.get(message.assignment_id)
            if held is not None and held.inbox is not None:
                held.inbox.take(message)
                continue
            refused = InputState(
                assignment_id=message.assignment_id,
                message_id=message.message_id,
                state="refused",
                reason="the task does not run in this sandbox any more",
            )
            self._outbox.append(message.assignment_id, encode(refused))

    # ---- the moves ----------------------------------------------------------------------------------

    def _objection(self, assignment: Assignment) -> str | None:
        if self._draining:
            return "the sandbox is draining"
        if self.running() >= self._config.max_concurrency:
            return f"the sandbox is full ({self._config.max_concurrency} running)"
        definition = assignment.definition
        if definition is not None and definition.adapter not in self._adapters:
            return f"the sandbox has no adapter `{definition.adapter}`"
        return None

    def _start(self, held: Held, ending: Ended | None = None) -> None:
        assert held.assignment is not None
        assert held.inbox is not None
        held.lifecycle = Lifecycle(
            held.assignment, self._services, held.directory, held.inbox, ending
        )
        self._begin(self._run(held, held.lifecycle))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _inbox(self, assignment_id: str, handed: Collection[str] = ()) -> Inbox:
        return Inbox(assignment_id, self._journal, self._outbox, handed)

    async def _run(self, held: Held, lifecycle: Lifecycle) -> None:
        await self._journal.durable()
        try:
            result = await lifecycle.run()
        except Exception as error:  # the top of an assignment: the daemon outlives it
            log.exception("assignment broke the sandbox", assignment_id=held.assignment_id)
            fault = TaskError(code="sandbox_broken", message=f"a fault of the sandbox: {error!r}")
            result = Result(assignment_id=held.assignment_id, outcome=Outcome.LOST, error=fault)
        held.lifecycle = None
        held.inbox = None
        held.assignment = None
        held.has_directory = lifecycle.has_directory
        if held.state == "forgotten":
            del self._held[held.assignment_id]
            self._remove(held, forget=True)
        else:
            self._end(held, result)

    def _end(self, held: Held, result: Result) -> None:
        """Put the result in the journal, together with the new state."""
        if held.state == "pending":
            self._undecided.remove(held)
        held.state = "ended"
        held.inbox = None
        mark = (_END, (held.assignment_id,))
        held.deciding_seq = self._outbox.append(held.assignment_id, fitted(result), mark)
        self._undecided.append(held)

    def _append_result(self, assignment_id: str, outcome: Outcome) -> None:
        self._outbox.append(
            assignment_id, encode(Result(assignment_id=assignment_id, outcome=outcome))
        )

    def _clean_up(self, held: Held) -> None:
        """Its result is acknowledged: nothing of it is needed any more."""
        del self._held[held.assignment_id]
        self._remove(held, forget=False)

    def _forget(self, assignment_id: str) -> None:
        """It is no longer ours: kill it, and say nothing more about it."""
        held = self._held.get(assignment_id)
        if held is None:
            return
        log.info("assignment no longer ours", assignment_id=assignment_id, state=held.state)
        if held.lifecycle is not None:
            held.state = "forgotten"
            held.lifecycle.stop("stale")
            self._outbox.forget(assignment_id)
            return
        if held.state == "running":  # what it had changed is being stored
            held.state = "forgotten"
            return
        del self._held[assignment_id]
        self._remove(held, forget=True)

    def _remove(self, held: Held, *, forget: bool) -> None:
        if held.has_directory and not self._config.keep_directories:
            self._begin(self._remove_directory(held, forget=forget))
        else:
            self._remove_row(held, forget=forget)

    async def _remove_directory(self, held: Held, *, forget: bool) -> None:
        await asyncio.to_thread(held.directory.remove)
        self._remove_row(held, forget=forget)

    def _remove_row(self, held: Held, *, forget: bool) -> None:
        row = (_DELETE, (held.assignment_id,))
        if forget:
            self._outbox.forget(held.assignment_id, row)
        else:
            self._journal.write(row)
        self._look_whether_idle()

    def _look_whether_idle(self) -> None:
        if self._draining and not self._held and not self._tasks_left() and self._outbox.empty:
            self._idle.set()

    def _tasks_left(self) -> bool:
        current = asyncio.current_task()
        return any(task is not current and not task.done() for task in self._tasks)

    async def _wind_down(self) -> None:
        """Kill what runs, report it lost, and give the reports a moment to be acknowledged."""
        log.info("stopping", held=len(self._held))
        self._draining = True
        for held in list(self._held.values()):
            if held.lifecycle is not None:
                held.lifecycle.stop("stopping")
            elif held.state == "pending":
                error = TaskError(
                    code="sandbox_stopping", message="the sandbox was stopped before the task began"
                )
                self._end(
                    held,
                    Result(assignment_id=held.assignment_id, outcome=Outcome.LOST, error=error),
                )
        try:
            while self._tasks:
                await asyncio.wait(self._tasks)
            async with asyncio.timeout(FLUSH_S):
                await self._outbox.settled()
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            log.warning("results not acknowledged, they stay in the journal", held=len(self._held))

    # ---- after a restart ----------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Take over from an earlier daemon that used this state directory."""
        rows = await self._journal.rows()
        interrupted: list[Row] = []
        handed: defaultdict[str, list[str]] = defaultdict(list)
        for assignment_id, message_id in await self._journal.inputs():
            handed[assignment_id].append(message_id)
        for row in rows:
            held = Held(row.assignment_id, row.state, TaskDirectory(Path(row.directory)))
            seq = self._outbox.last_seq_of(row.assignment_id)
            if row.state == "pending" and seq is not None and self._revive(held, row):
                held.deciding_seq = seq
                held.inbox = self._inbox(held.assignment_id, handed[held.assignment_id])
                self._held[held.assignment_id] = held
            elif row.state == "ended":
                if seq is None:
                    self._journal.write((_DELETE, (row.assignment_id,)))
                else:
                    held.deciding_seq = seq
                    self._held[held.assignment_id] = held
            else:
                interrupted.append(row)
        self._undecided.extend(sorted(self._held.values(), key=lambda held: held.deciding_seq))
        await self._make_sure_gone(interrupted)
        for ledger in self._services.ledgers.glob("*"):
            await asyncio.to_thread(credentials.settle, ledger)
        for row in interrupted:
            await asyncio.to_thread(TaskDirectory(Path(row.directory)).remove_home)
            held = Held(row.assignment_id, "running", TaskDirectory(Path(row.directory)))
            self._held[held.assignment_id] = held
            files = self._files(held)
            ending = files.ending
            if ending is not None and self._revive(held, row):
                held.inbox = self._inbox(held.assignment_id, handed[held.assignment_id])
                self._start(held, ending)
            elif files.record is not None:
                self._begin(self._salvage(held, row, files))
            else:
                await self._give_up(held, row, [])
        await asyncio.to_thread(self._services.sessions.prune)
        await self._journal.durable()
        if rows:
            log.info("took over", held=len(rows), interrupted=len(interrupted))
        if not self._config.keep_directories:
            await asyncio.to_thread(self._remove_strays, {row.directory for row in rows})

    def _files(self, held: Held) -> Workspace:
        services = self._services
        return Workspace(held.assignment_id, held.directory, services.packs, services.blobs)

    async def _salvage(self, held: Held, row: Row, files: Workspace) -> None:
        """Store what it had changed, for as long as that takes, and only then say that it is lost."""
        warnings: list[TaskWarning] = []
        await salvage(files, warnings.append, None)
        await self._give_up(held, row, warnings)

    async def _give_up(self, held: Held, row: Row, warnings: list[TaskWarning]) -> None:
        if (assignment := _decoded(row)) is not None:
            keep = self._services.sessions.keep
            await asyncio.to_thread(keep, held.directory, assignment.task_id)
        if held.state == "forgotten":
            del self._held[held.assignment_id]
            self._remove(held, forget=True)
            return
        error = TaskError(
            code="sandbox_restarted", message="the sandbox daemon was restarted while the task ran"
        )
        self._end(held, Result(
            assignment_id=held.assignment_id, outcome=Outcome.LOST, error=error, warnings=warnings,
        ))  # fmt: skip

    def _revive(self, held: Held, row: Row) -> bool:
        held.assignment = _decoded(row)
        return held.assignment is not None

    async def _make_sure_gone(self, rows: list[Row]) -> None:
        for row in rows:
            if row.pid is None or row.pid_started is None:
                continue
            # A supervisor whose daemon is dead is killing its tree right now.
            if not await processes.gone(row.pid, row.pid_started, PREDECESSOR_PATIENCE_S):
                log.error("old supervisor does not end, killed", pid=row.pid)
                processes.kill(row.pid)
        kills = await processes.kill_marked({row.assignment_id for row in rows})
        if kills:
            log.warning("processes of an earlier daemon killed", kills=kills)

    def _remove_strays(self, wanted: set[str]) -> None:
        """Directories whose row is gone: the daemon died between the two."""
        parent = self._state_dir / "assignments"
        if parent.is_dir():
            for path in parent.iterdir():
                if str(path) not in wanted:
                    TaskDirectory(path).remove()


def _decoded(row: Row) -> Assignment | None:
    try:
        return decode(row.payload, Assignment)
    except BodyError as error:
        log.error("stored assignment not understood", id=row.assignment_id, reason=str(error))
        return None
