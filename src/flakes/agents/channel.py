"""JSON lines with one agent process: requests that get answers, and everything else in order.

Every agent here speaks newline-separated JSON on its standard streams; what the lines mean is its driver's.
Lines are split on LF alone (other line separators are legal inside strings), handled one after the other,
and a handler that waits makes the agent wait. When the process ends, whoever waits for an answer is told.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from flakes.agents.base import AgentError, AgentEvent, Host, Process

STDERR_TAIL_BYTES: Final = 4096
Handler = Callable[[dict[str, Any], bytes], Awaitable[None]]


class Channel:
    """See the module. `ended` settles with the error that an end without being asked for is."""

    def __init__(self, process: Process, host: Host, handle: Handler, name: str) -> None:
        self._process = process
        self._host = host
        self._handle = handle
        self._name = name
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._stderr = bytearray()
        self._errors = asyncio.create_task(self._read_stderr(), name=f"{name} stderr")
        self._reader = asyncio.create_task(self._read(), name=f"{name} stdout")
        self.ended: asyncio.Future[AgentError] = asyncio.get_running_loop().create_future()
        self._asides: set[asyncio.Task[None]] = set()

    async def send(self, message: Mapping[str, Any]) -> None:
        """Write one line. An agent that is gone is told of by `ended`, not here."""
        try:
            await self._process.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
        except OSError:
            pass

    async def ask(self, key: str, message: Mapping[str, Any], timeout_s: float | None = None) -> Any:
        """Send, and wait until `answer` is called for the key. Raises `AgentError`."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        try:
            await self.send(message)
            async with asyncio.timeout(timeout_s):
                return await self.first(future)
        except TimeoutError:
            raise AgentError(
                "agent_silent", f"{self._name} did not answer within {timeout_s:g} s", "see the task's log", True
            ) from None
        finally:
            self._waiting.pop(key, None)

    def answer(self, key: str, value: Any) -> bool:
        """Settle what waits for the key, with a value or an `AgentError`; False when nothing does."""
        future = self._waiting.get(key)
        if future is None or future.done():
            return False
        if isinstance(value, AgentError):
            future.set_exception(value)
        else:
            future.set_result(value)
        return True

    async def first(self, future: asyncio.Future[Any]) -> Any:
        """What the future gives, unless the agent ends before: then its end is raised."""
        await asyncio.wait({future, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        raise self.ended.result()

    def aside(self, work: Awaitable[None]) -> None:
        """Do something that may take long without holding up the lines."""

        async def run() -> None:
            await work

        task = asyncio.create_task(run(), name=f"{self._name} aside")
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def close(self, grace_s: float) -> None:
        """End its input, give it a moment to end by itself, then see to it that all of it is gone."""
        for task in list(self._asides):
            task.cancel()
        self._process.close_stdin()
        await asyncio.wait({self._reader}, timeout=grace_s)
        await self._process.terminate(0 if self._reader.done() else grace_s)

    async def _read(self) -> None:
        async for line in self._process.stdout.lines():
            if not line.strip():
                continue
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if isinstance(message, dict):
                await self._handle(message, line)
            else:
                await self._host.emit(AgentEvent("output", {"channel": "stdout", "chunk": line + b"\n"}))
        await self._end()

    async def _end(self) -> None:
        try:
            exit_code: int | None = (await self._process.wait()).code
        except AgentError as error:
            self.ended.set_result(error)
            return
        await asyncio.wait({self._errors}, timeout=1.0)
        last = self._stderr.decode("utf-8", "replace").strip().splitlines()
        said = f": {last[-1][:500]}" if last else ""
        self.ended.set_result(AgentError(
            "agent_exited", f"{self._name} ended with exit code {exit_code}{said}",
            "look at the end of the task's log", retryable=exit_code is not None and exit_code < 0,
            exit_code=exit_code,
        ))  # fmt: skip

    async def _read_stderr(self) -> None:
        while chunk := await self._process.stderr.read():
            self._stderr += chunk
            del self._stderr[:-STDERR_TAIL_BYTES]
            await self._host.emit(AgentEvent("output", {"channel": "stderr", "chunk": chunk}))
