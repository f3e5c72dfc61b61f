"""The event loop of a harness: one queue, first in first out, and nothing from outside.

It has no clock, no sockets and no threads. Code runs until everything in it waits for an effect; then
the replay decides what settles next. So the order in which things happen depends on the code and on the
journal alone. Waiting for time (`asyncio.sleep`, `asyncio.timeout`) becomes a durable timer of the journal.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from flakes.harness.errors import HarnessError

STEPS_MAX = 5_000_000
"""Callbacks without anything settling in between: more is an endless loop."""


class Timers(Protocol):
    """Where timers of the loop come from."""

    def call_after(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when the time is over; the answer cancels it."""
        ...

    def elapsed_s(self) -> float:
        """Seconds; the time of what was delivered last, the same in every replay."""
        ...


class _Future(asyncio.Future[Any]):
    """Hashed by its number: sets of futures are walked in the same order in every replay."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class _Task(asyncio.Task[Any]):
    number = 0

    def __hash__(self) -> int:
        return self.number


class _TimerHandle(asyncio.TimerHandle):
    ends: Callable[[], None] | None = None

    def cancel(self) -> None:
        if self.ends is not None and not self.cancelled():
            self.ends()
        super().cancel()


class Loop(asyncio.AbstractEventLoop):
    """See the module. `step` runs everything that is ready."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._ready: deque[asyncio.Handle] = deque()
        self._numbers = 0
        self.tasks: list[_Task] = []
        self.unhandled: list[dict[str, Any]] = []

    def step(self) -> None:
        """Run what is ready, and what becomes ready by that, until nothing is."""
        events._set_running_loop(self)  # noqa: SLF001 - what asyncio's own loops do
        try:
            steps = 0
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()  # noqa: SLF001
                steps += 1
                if steps > STEPS_MAX:
                    raise HarnessError(
                        "harness_stuck", "the module goes round without waiting for anything",
                        "await an effect of `ctx` in the loop",
                    )  # fmt: skip
        finally:
            events._set_running_loop(None)  # noqa: SLF001

    def create_future(self) -> asyncio.Future[Any]:
        future = _Future(loop=self)
        future.number = self._number()
        return future

    def create_task(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None,
        context: contextvars.Context | None = None, **kwargs: Any,
    ) -> asyncio.Task[Any]:  # fmt: skip
        task = _Task.__new__(_Task)
        task.number = self._number()
        # The number has to be there before the constructor puts the task into a set.
        task.__init__(coro, loop=self, name=name or f"task-{task.number}", context=context)
        task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue]  # noqa: SLF001
        self.tasks.append(task)
        return task

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:  # fmt: skip
        handle = _TimerHandle(self.time() + delay, callback, args, self, context)
        handle.ends = self._timers.call_after(max(0.0, delay), lambda: self._ready.append(handle))
        return handle

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:  # fmt: skip
        return self.call_later(when - self.time(), callback, *args, context=context)

    def time(self) -> float:
        return self._timers.elapsed_s()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return events._get_running_loop() is self  # noqa: SLF001

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.unhandled.append(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.unhandled.append(context)

    def call_soon_threadsafe(self, *_: Any, **__: Any) -> Any:
        raise _refused("threads")

    def run_in_executor(self, *_: Any, **__: Any) -> Any:
        raise _refused("threads")

    async def create_connection(self, *_: Any, **__: Any) -> Any:
        raise _refused("the network")

    async def create_server(self, *_: Any, **__: Any) -> Any:
        raise _refused("the network")

    async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        raise _refused("the network")

    async def subprocess_exec(self, *_: Any, **__: Any) -> Any:
        raise _refused("processes")

    async def subprocess_shell(self, *_: Any, **__: Any) -> Any:
        raise _refused("processes")

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers


def _refused(what: str) -> HarnessError:
    return HarnessError(
        "harness_nondeterministic", f"a harness does not use {what} by itself",
        "let a child do it: `await ctx.command(...)`",
    )  # fmt: skip
