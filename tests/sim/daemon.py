"""A sandbox daemon in the simulation: what it holds, what it has yet to say, and how it answers.

It follows the protocol of `wire.sandbox_stream` as the real daemon does: nothing starts before the
acknowledgement of its acceptance, every message stays in the journal until it is acknowledged, and what
an earlier life had running is reported lost. It knows nothing of the control plane but its `Link`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from flakes.core.task import Outcome
from flakes.wire.sandbox_stream import (
    PROTOCOL,
    Accepted,
    Ack,
    Assign,
    Assignment,
    Cancel,
    Declined,
    Downstream,
    Hello,
    InventoryItem,
    Message,
    Result,
    Welcome,
)


@dataclass(slots=True, eq=False)
class Link:
    """One connection: ordered both ways, and gone with everything in it when it is cut."""

    connection_id: str
    sandbox_id: str
    hello: Hello
    open: bool = True
    receiving: bool = False
    """The control plane has reconciled and reads."""
    busy: bool = False
    """A batch of it is with the writer."""
    up: deque[tuple[int, Message]] = field(default_factory=deque)
    down: deque[Downstream] = field(default_factory=deque)

    def cut(self) -> None:
        self.open = False
        self.up.clear()
        self.down.clear()

    def send(self, message: Downstream) -> None:
        """Down to the sandbox; what is sent on a dead connection is lost."""
        if self.open:
            self.down.append(message)


@dataclass(slots=True, eq=False)
class Held:
    assignment_id: str
    task_id: str
    state: str
    deciding_seq: int = 0
    stopping: bool = False


class Witness(Protocol):
    """Who watches executions."""

    def started(self, daemon: Daemon, held: Held) -> None: ...
    def stopped(self, daemon: Daemon, held: Held) -> None: ...
    def reported(self, held: Held, result: Result) -> None: ...


class Daemon:
    """See the module. `held`, `outbox` and `next_seq` are its journal."""

    def __init__(
        self,
        sandbox_id: str,
        slots: int,
        capabilities: list[str],
        witness: Witness,
    ) -> None:
        self.sandbox_id = sandbox_id
        self.slots = slots
        self.capabilities = capabilities
        self.alive = True
        self.link: Link | None = None
        self.boot = 0
        self.held: dict[str, Held] = {}
        self.outbox: list[tuple[int, str, Message]] = []
        self.next_seq = 1
        self._undecided: deque[Held] = deque()
        self._sent_seq = 0
        self._witness = witness

    # ---- the link

    def connect(self, connection_id: str) -> Link:
        assert self.alive
        self.disconnect()
        items = [
            InventoryItem(
                assignment_id=held.assignment_id,
                state="pending"
                if held.state == "pending"
                else "ended"
                if held.state == "ended"
                else "running",
            )
            for held in self.held.values()
        ]
        hello = Hello(
            protocol=PROTOCOL, sandbox_id=self.sandbox_id, boot=f"boot-{self.boot}", version="1",
            max_concurrency=self.slots, adapters=["noop"], capabilities=self.capabilities,
            assignments=items,
        )  # fmt: skip
        self.link = Link(connection_id, self.sandbox_id, hello)
        self._sent_seq = 0
        return self.link

    def disconnect(self) -> None:
        if self.link is not None:
            self.link.cut()
            self.link = None

    def send(self, count: int) -> bool:
        """Send up to `count` messages that this connection has not carried yet."""
        if self.link is None:
            return False
        unsent = [(seq, message) for seq, _, message in self.outbox if seq > self._sent_seq][:count]
        self.link.up.extend(unsent)
        if unsent:
            self._sent_seq = unsent[-1][0]
        return bool(unsent)

    def send_again(self) -> None:
        """Forget what this connection has carried."""
        self._sent_seq = 0

    def receive(self) -> bool:
        """Take one message from the link."""
        if self.link is None or not self.link.down:
            return False
        message = self.link.down.popleft()
        match message:
            case Welcome():
                for assignment_id in message.drop:
                    self._forget(assignment_id)
            case Assign():
                for assignment in message.assignments:
                    self._assign(assignment)
            case Cancel():
                for assignment_id in message.assignment_ids:
                    self._cancel(assignment_id)
            case Ack():
                self._ack(message.seq, set(message.stale))
            case _:
                raise AssertionError(message)
        return True

    # ---- the life of the process

    def crash(self, *, keep_journal: bool) -> None:
        """Die at once, with every process of every assignment."""
        self.disconnect()
        self.alive = False
        for held in self.running():
            self._witness.stopped(self, held)
            held.state = "interrupted"
        if not keep_journal:
            self.held.clear()
            self.outbox.clear()
            self.next_seq = 1

    def restart(self) -> None:
        self.alive = True
        self.boot += 1
        said = {assignment_id: seq for seq, assignment_id, _ in self.outbox}
        interrupted: list[Held] = []
        for held in list(self.held.values()):
            if held.state in ("pending", "ended") and held.assignment_id in said:
                held.deciding_seq = said[held.assignment_id]
            elif held.state == "ended":
                del self.held[held.assignment_id]
            else:
                interrupted.append(held)
        left = [held for held in self.held.values() if held not in interrupted]
        self._undecided = deque(sorted(left, key=lambda held: held.deciding_seq))
        for held in interrupted:
            self._end(held, Outcome.LOST, "restarted")

    def running(self) -> list[Held]:
        """What has processes."""
        return [held for held in self.held.values() if held.state in ("running", "forgotten")]

    def finish(self, held: Held, outcome: Outcome, text: str) -> None:
        """Its last process is gone."""
        self._witness.stopped(self, held)
        if held.state == "forgotten":
            del self.held[held.assignment_id]
        else:
            self._end(held, outcome, text)

    # ---- answers

    def _assign(self, assignment: Assignment) -> None:
        if assignment.assignment_id in self.held:
            return
        if sum(held.state != "ended" for held in self.held.values()) >= self.slots:
            declined = Declined(assignment_id=assignment.assignment_id, reason="full")
            self._append(assignment.assignment_id, declined)
            return
        held = Held(assignment.assignment_id, assignment.task_id, "pending")
        self.held[held.assignment_id] = held
        held.deciding_seq = self._append(
            held.assignment_id, Accepted(assignment_id=held.assignment_id)
        )
        self._undecided.append(held)

    def _ack(self, seq: int, stale: set[str]) -> None:
        started: list[Held] = []
        while self._undecided and self._undecided[0].deciding_seq <= seq:
            held = self._undecided.popleft()
            if held.assignment_id in stale or self.held.get(held.assignment_id) is not held:
                continue
            if held.state == "pending":
                held.state = "running"
                started.append(held)
            else:
                del self.held[held.assignment_id]
        self._keep(lambda entry: entry[0] > seq)
        for held in started:
            self._witness.started(self, held)
        for assignment_id in stale:
            self._forget(assignment_id)

    def _cancel(self, assignment_id: str) -> None:
        held = self.held.get(assignment_id)
        if held is None:
            result = Result(assignment_id=assignment_id, outcome=Outcome.CANCELLED)
            self._append(assignment_id, result)
        elif held.state == "pending":
            self._undecided.remove(held)
            self._end(held, Outcome.CANCELLED, "")
        elif held.state == "running":
            held.stopping = True

    def _forget(self, assignment_id: str) -> None:
        held = self.held.get(assignment_id)
        if held is None:
            return
        self._keep(lambda entry: entry[1] != assignment_id)
        if held.state == "running":
            held.state = "forgotten"  # until its processes are gone
        elif held.state != "forgotten":
            del self.held[assignment_id]

    def _end(self, held: Held, outcome: Outcome, text: str) -> None:
        held.state = "ended"
        result = Result(assignment_id=held.assignment_id, outcome=outcome, text=text)
        self._witness.reported(held, result)
        held.deciding_seq = self._append(held.assignment_id, result)
        self._undecided.append(held)

    def _append(self, assignment_id: str, message: Message) -> int:
        seq, self.next_seq = self.next_seq, self.next_seq + 1
        self.outbox.append((seq, assignment_id, message))
        return seq

    def _keep(self, wanted: Callable[[tuple[int, str, Message]], bool]) -> None:
        self.outbox = [entry for entry in self.outbox if wanted(entry)]
