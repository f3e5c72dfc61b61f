"""What a harness needs of whoever runs it: a journal, operations, and waiting.

The worker's engine is the socket of its task; the checker's is a scripted one. Everything is synchronous:
a harness process has nothing else to do while it asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flakes.harness.errors import HarnessError

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """Something to wait for. `id` is the effect's, `name` its operation id; `about` by kind: `children` {taskIds, need},
    `group` {group, taskIds}, `timer` {delayMs, dueMs} (Unix time), `signal` {name}, `round` {task, roundKey}."""

    id: int
    kind: Literal["children", "group", "timer", "signal", "round"]
    about: dict[str, Any]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of a condition: the value that its effect gets, or the refusal to wait."""

    id: int
    value: Any
    error: HarnessError | None = None


class Engine(Protocol):
    """See the module. Refusals are `HarnessError`s; `EngineGone` ends the process."""

    def read_journal(self, after: int) -> tuple[list[Entry], bool]:
        """Entries behind position `after`, and whether there are more behind these."""
        ...

    def append_journal(self, at: int, entries: Sequence[Entry]) -> None:
        """Make entries durable from position `at` on. The same again is no error; others there are."""
        ...

    def perform(self, operation: str, body: dict[str, Any]) -> Any:
        """Do something, idempotent by the `operationId` in its body when it changes anything."""
        ...

    def wait(self, conditions: Sequence[Condition], hold_s: float | None) -> list[Settled]:
        """What has settled, at least one, in its order; empty when the task has to yield."""
        ...

    def now_ms(self) -> int:
        """Unix time."""
        ...

    def random(self) -> float:
        """At least 0, below 1."""
        ...

    def say(self, line: str) -> None:
        """A line for the log."""
        ...
