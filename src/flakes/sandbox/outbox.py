"""Messages on their way to the control plane: durable before they are sent, kept until acknowledged.

The outbox numbers messages and hands them to the journal; the uplink takes frames from it. It knows
nothing of sockets, nor of what a message says.

Invariants: a message is sent only after it is committed. Numbers inside one frame are consecutive; a
number may be missing between two frames, when an assignment was forgotten with its messages. Memory holds
a small record for every unacknowledged message, and the bytes of the newest ones only: older ones are
read back from the journal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from flakes.core.limits import KIB, MIB, STREAM_FRAME_BYTES_MAX
from flakes.sandbox.journal import Journal, Statement

IN_MEMORY_BYTES_MAX: Final = 4 * MIB
SLOW_DOWN_BYTES: Final = 4 * MIB
"""Unacknowledged bytes of one assignment from which on, while connected, its log is made to wait."""
BACKLOG_BYTES_MAX: Final = 64 * MIB
"""Unacknowledged bytes of one assignment from which on its log lines are dropped."""
FRAME_BYTES_MAX: Final = STREAM_FRAME_BYTES_MAX - KIB


class Entry:
    """One unacknowledged message; `body` None when only the journal has it."""

    __slots__ = ("assignment_id", "body", "seq", "size_bytes")

    def __init__(self, seq: int, assignment_id: str, size_bytes: int, body: bytes | None) -> None:
        self.seq = seq
        self.assignment_id = assignment_id
        self.size_bytes = size_bytes
        self.body = body


class Outbox:
    """The unacknowledged messages, in order: those in flight, then those not sent on this connection."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._flying: deque[Entry] = deque()
        self._waiting: deque[Entry] = deque()
        self._in_memory: deque[Entry] = deque()
        self._in_memory_bytes = 0
        self._next_seq = 1
        self._durable_seq = 0
        self._backlog_bytes: dict[str, int] = {}
        self._committing: asyncio.Task[None] | None = None
        self.sendable = asyncio.Event()
        """Set when there may be something to send, or something changed that a sender waits for."""
        self.moved = asyncio.Event()
        """Set at every acknowledgement and change of the connection."""
        self.connected = False

    async def load(self) -> None:
        """Take over what an earlier daemon left."""
        self._next_seq = await self._journal.last_seq() + 1
        for seq, assignment_id, size_bytes in await self._journal.index():
            self._waiting.append(Entry(seq, assignment_id, size_bytes, None))
            self._count(assignment_id, size_bytes)
            self._durable_seq = seq

    @property
    def empty(self) -> bool:
        return not self._flying and not self._waiting

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    def last_seq_of(self, assignment_id: str) -> int | None:
        """The newest unacknowledged message of an assignment."""
        for entries in (self._waiting, self._flying):
            for entry in reversed(entries):
                if entry.assignment_id == assignment_id:
                    return entry.seq
        return None

    def append(self, assignment_id: str, body: bytes, *also: Statement) -> int:
        """Number and journal a message, in one transaction with `also`; its sequence number."""
        assert len(body) <= FRAME_BYTES_MAX, "the caller splits or truncates"
        seq = self._next_seq
        self._next_seq += 1
        insert = "insert into outbox (seq, assignment_id, message) values (?, ?, ?)"
        self._journal.write((insert, (seq, assignment_id, body)), *also)
        entry = Entry(seq, assignment_id, len(body), body)
        self._waiting.append(entry)
        self._in_memory.append(entry)
        self._in_memory_bytes += len(body)
        self._count(assignment_id, len(body))
        if self._committing is None:
            self._committing = asyncio.create_task(self._follow_commits(), name="outbox commits")
        return seq

    def ack(self, seq: int, *also: Statement) -> None:
        """Forget everything up to and including `seq`, in one transaction with `also`."""
        for entries in (self._flying, self._waiting):
            while entries and entries[0].seq <= seq:
                self._let_go(entries.popleft())
        while self._in_memory and self._in_memory[0].seq <= seq:
            self._in_memory_bytes -= self._in_memory.popleft().size_bytes
        self._journal.write(("delete from outbox where seq <= ?", (seq,)), *also)
        self._wake()

    def forget(self, assignment_id: str, *also: Statement) -> None:
        """Drop every message of an assignment, in one transaction with `also`."""
        if assignment_id in self._backlog_bytes:
            self._flying = deque(e for e in self._flying if e.assignment_id != assignment_id)
            self._waiting = deque(e for e in self._waiting if e.assignment_id != assignment_id)
            self._in_memory = deque(e for e in self._in_memory if e.assignment_id != assignment_id)
            self._in_memory_bytes = sum(entry.size_bytes for entry in self._in_memory)
            del self._backlog_bytes[assignment_id]
        self._journal.write(("delete from outbox where assignment_id = ?", (assignment_id,)), *also)
        self._wake()

    def set_connected(self, connected: bool) -> None:
        """A connection begins or ends: everything unacknowledged is to be sent again, from the first."""
        self.connected = connected
        self._waiting.extendleft(reversed(self._flying))
        self._flying.clear()
        self._wake()

    def backlog_bytes(self, assignment_id: str) -> int:
        return self._backlog_bytes.get(assignment_id, 0)

    async def room(self, assignment_id: str) -> bool:
        """Wait while connected and behind with an assignment's log; False when lines must be dropped."""
        while self.connected and self.backlog_bytes(assignment_id) > SLOW_DOWN_BYTES:
            self.moved.clear()
            await self.moved.wait()
        return self.backlog_bytes(assignment_id) < BACKLOG_BYTES_MAX

    async def settled(self) -> None:
        """Until nothing is unacknowledged."""
        while not self.empty:
            self.moved.clear()
            await self.moved.wait()

    async def frame(self, window: int) -> bytes | None:
        """The next frame within the window, now in flight; None when there is nothing to send."""
        room = window - len(self._flying)
        taken: list[Entry] = []
        size_bytes = 0
        while self._waiting and len(taken) < room:
            entry = self._waiting[0]
            if entry.seq > self._durable_seq:
                break
            if taken and (
                entry.seq != taken[-1].seq + 1
                or size_bytes + entry.size_bytes + 1 > FRAME_BYTES_MAX
            ):
                break
            size_bytes += entry.size_bytes + 1
            taken.append(self._waiting.popleft())
        if not taken:
            return None
        # In flight before the first pause, so that an ack or a reset meanwhile finds them there.
        self._flying.extend(taken)
        bodies = [entry.body for entry in taken]
        if None in bodies:
            stored = dict(await self._journal.messages(taken[0].seq, taken[-1].seq))
            bodies = [entry.body or stored.get(entry.seq) for entry in taken]
            if None in bodies:
                # Forgotten while it was read: the others stay in flight and go again from the start.
                self.set_connected(self.connected)
                return await self.frame(window)
        head = b'{"type":"batch","firstSeq":%d,"messages":[' % taken[0].seq
        return head + b",".join(body for body in bodies if body is not None) + b"]}"

    async def _follow_commits(self) -> None:
        while self._durable_seq < self._next_seq - 1:
            newest = self._next_seq - 1
            await self._journal.durable()
            self._durable_seq = newest
            self._trim()
            self.sendable.set()
        self._committing = None

    def _trim(self) -> None:
        while self._in_memory_bytes > IN_MEMORY_BYTES_MAX and self._in_memory:
            if self._in_memory[0].seq > self._durable_seq:
                return
            entry = self._in_memory.popleft()
            entry.body = None
            self._in_memory_bytes -= entry.size_bytes

    def _count(self, assignment_id: str, size_bytes: int) -> None:
        self._backlog_bytes[assignment_id] = self._backlog_bytes.get(assignment_id, 0) + size_bytes

    def _let_go(self, entry: Entry) -> None:
        left = self._backlog_bytes[entry.assignment_id] - entry.size_bytes
        if left:
            self._backlog_bytes[entry.assignment_id] = left
        else:
            del self._backlog_bytes[entry.assignment_id]

    def _wake(self) -> None:
        self.sendable.set()
        self.moved.set()
