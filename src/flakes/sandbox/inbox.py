"""The inbox of one assignment: messages of people on their way to its agent, each handed over at most once.

An id goes into the journal before its message goes to the agent, so a message that comes again, also to
the daemon's successor, is known. How an agent takes messages is its driver's to say: as lines of a file
that it reads when it likes (``delivered`` with the line on disk, ``consumed`` when the task says so), or
said into a running turn (``steer``), as further turns (``follow_up``), or as the next one after ending the
running one (``interrupt``). The inbox refuses to know what a
message means, and never holds up the stream: `take` returns at once.

What is still here when the assignment ends is not reported: the control plane makes it undeliverable.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import structlog

from flakes.agents.base import AgentError, Capabilities
from flakes.sandbox.journal import Journal
from flakes.sandbox.outbox import Outbox
from flakes.wire.codec import encode
from flakes.wire.inbox import (
    InboxConsume,
    InboxConsumed,
    InboxMessage,
    InboxMessages,
    InboxRead,
)
from flakes.wire.sandbox_stream import InputMessage, InputState

log = structlog.get_logger(__name__)

_HAND_OVER = "insert or ignore into inputs (message_id, assignment_id) values (?, ?)"


class Taker(Protocol):
    """What messages are handed to: the part of `flakes.agents.base.Driver` that takes them."""

    def capabilities(self) -> Capabilities: ...

    async def steer(
        self, text: str, op_id: str
    ) -> Literal["injected", "queued", "idle", "unsupported"]: ...

    async def interrupt(self) -> None: ...


class Inbox:
    """See the module; one an assignment. `handed` are ids that an earlier daemon handed over."""

    def __init__(
        self, assignment_id: str, journal: Journal, outbox: Outbox, handed: Iterable[str] = ()
    ) -> None:
        self._assignment_id = assignment_id
        self._journal = journal
        self._outbox = outbox
        self._known = set(handed)
        self._waiting: deque[InputMessage] = deque()
        self._follow_ups: deque[InputMessage] = deque()
        self._unread: dict[str, InboxMessage] = {}
        self._in_turn: list[str] = []
        """Steering messages that the agent keeps until its turn is over."""
        self._arrived = asyncio.Event()
        self._looked_at = asyncio.Event()
        self._looked_at.set()
        self._readable = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    # ---- from the stream

    def take(self, message: InputMessage) -> None:
        """A message came; one that came before is left alone."""
        if message.message_id in self._known:
            return
        self._known.add(message.message_id)
        if self._closed:
            self._report(message.message_id, "refused", "the task was ending")
            return
        self._waiting.append(message)
        self._looked_at.clear()
        self._arrived.set()

    # ---- for the lifecycle

    def open(self, driver: Taker, adapter: str, file: Path | None) -> None:
        """The agent is there: hand over what has come, and what comes. `file` is for agents that read one."""
        self._pump = asyncio.create_task(
            self._hand_over(driver, adapter, file), name=f"inbox {self._assignment_id}"
        )

    async def follow_up(self) -> InputMessage | None:
        """The next message that is a turn of its own, now delivered; None when there is none."""
        for message_id in self._in_turn:
            self._report(message_id, "consumed")
        self._in_turn.clear()
        # What has arrived, and was not looked at yet, may be one.
        await self._looked_at.wait()
        if not self._follow_ups:
            return None
        message = self._follow_ups.popleft()
        await self._note(message.message_id)
        self._report(message.message_id, "delivered")
        self._report(message.message_id, "consumed")
        return message

    async def close(self) -> None:
        """The agent takes no more. Returns when nothing is being handed over."""
        self._closed = True
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait({self._pump})
        self._readable.set()

    # ---- for the task itself

    async def unread(self, wait_s: float = 0.0) -> list[InboxMessage]:
        """Delivered messages that the task has not acknowledged, oldest first; waits for a first one."""
        if not self._unread and not self._closed and wait_s > 0:
            self._readable.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._readable.wait()
            except TimeoutError:
                pass
        return list(self._unread.values())

    def consume(self, message_ids: Collection[str]) -> list[str]:
        """The task has taken these in; those of them that it had not acknowledged before."""
        taken = [message_id for message_id in message_ids if self._unread.pop(message_id, None)]
        for message_id in taken:
            self._report(message_id, "consumed")
        return taken

    def operations(self) -> dict[str, Callable[[Any], Awaitable[Any]]]:
        """What the task's own commands ask of the inbox."""

        async def read(body: InboxRead) -> InboxMessages:
            return InboxMessages(messages=await self.unread(body.wait_s))

        async def consume(body: InboxConsume) -> InboxConsumed:
            return InboxConsumed(message_ids=self.consume(body.message_ids))

        return {"inbox.read": read, "inbox.consume": consume}

    # ---- handing over

    async def _hand_over(self, driver: Taker, adapter: str, file: Path | None) -> None:
        able = driver.capabilities()
        while True:
            if not self._waiting:
                self._looked_at.set()
                self._arrived.clear()
                await self._arrived.wait()
            message = self._waiting.popleft()
            if able.inbox and file is not None and message.mode != "interrupt":
                await self._append(message, file)
            elif able.converses and message.mode == "interrupt":
                await self._interrupt(message, driver)
            elif able.steer and message.mode == "steer":
                await self._steer(message, driver)
            elif able.converses:
                self._follow_ups.append(message)
            else:
                what = "cannot be interrupted" if message.mode == "interrupt" else "takes no messages"
                reason = f"the adapter `{adapter}` {what}"
                self._report(message.message_id, "refused", reason)

    async def _append(self, message: InputMessage, file: Path) -> None:
        await self._note(message.message_id)
        item = InboxMessage(
            id=message.message_id, mode=message.mode, text=message.text, at=datetime.now(UTC)
        )
        try:
            await asyncio.to_thread(_append_line, file, encode(item) + b"\n")
        except OSError as error:
            log.warning("message not written", message=message.message_id, reason=str(error))
            reason = f"the sandbox could not write it down: {error.strerror or error}"
            self._report(message.message_id, "refused", reason)
            return
        self._unread[message.message_id] = item
        self._report(message.message_id, "delivered")
        self._readable.set()

    async def _steer(self, message: InputMessage, driver: Taker) -> None:
        await self._note(message.message_id)
        try:
            answer = await driver.steer(message.text, message.message_id)
        except AgentError as error:
            self._report(message.message_id, "refused", error.message)
            return
        if answer in ("idle", "unsupported"):
            self._follow_ups.append(message)
        else:
            self._report(message.message_id, "delivered")
            if answer == "injected":
                self._report(message.message_id, "consumed")
            else:
                self._in_turn.append(message.message_id)

    async def _interrupt(self, message: InputMessage, driver: Taker) -> None:
        """What it says is the next turn, before everything else that waits to be one."""
        self._follow_ups.appendleft(message)
        try:
            await driver.interrupt()
        except AgentError as error:
            log.warning("not interrupted", message=message.message_id, reason=error.message)

    async def _note(self, message_id: str) -> None:
        """From here on the message counts as handed over, whatever happens to this daemon."""
        self._journal.write((_HAND_OVER, (message_id, self._assignment_id)))
        await self._journal.durable()

    def _report(
        self, message_id: str, state: Literal["delivered", "consumed", "refused"], reason: str = ""
    ) -> None:
        told = InputState(
            assignment_id=self._assignment_id, message_id=message_id, state=state, reason=reason
        )
        self._outbox.append(self._assignment_id, encode(told))


def _append_line(path: Path, line: bytes) -> None:
    """Append a whole line or nothing, and see it on disk. The file is in the task's hands: neither a link nor
    anything but a file is written to."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "the inbox is not a file any more")
        before = os.fstat(fd).st_size
        written = os.write(fd, line)
        if written != len(line):
            os.ftruncate(fd, before)
            raise OSError(28, "no space for the whole line")
        os.fsync(fd)
    finally:
        os.close(fd)
