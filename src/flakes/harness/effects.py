"""Effects: what a harness asks of the world, and the futures of those who wait for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

WAITS: Final = frozenset({"children", "group", "timer", "signal", "round"})
"""Kinds that somebody else settles. The others, `spawn` and `call`, are performed."""


@dataclass(slots=True, eq=False)
class Effect:
    """One effect. `request` is what it asks, `extra` what was found out when it was first asked."""

    id: int
    kind: str
    request: dict[str, Any]
    what: str
    turn: int
    at: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    settled: bool = False
    performed: bool = False
    value: Any = None
    error: Exception | None = None
    waiters: list[asyncio.Future[Any]] = field(default_factory=list)
    callbacks: list[Callable[[], None]] = field(default_factory=list)
    dropped: bool = False

    @property
    def wanted(self) -> bool:
        """Whether anybody would notice that it settles."""
        return not self.settled and (bool(self.callbacks) or any(not each.done() for each in self.waiters))

    def settle(self, value: Any, error: Exception | None) -> None:
        """Give everybody who waits what came of it."""
        self.settled, self.value, self.error = True, value, error
        for each in self.waiters:
            if not each.done():
                each.set_exception(error) if error is not None else each.set_result(value)
        for callback in self.callbacks:
            callback()
        self.waiters, self.callbacks = [], []


def place(files: Collection[str]) -> str:
    """``file.py:12``: the innermost line of the module that is running; empty when none is."""
    frame = sys._getframe(1)  # noqa: SLF001
    while frame is not None:
        if frame.f_code.co_filename in files:
            return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
