"""What a harness sees of its surroundings: outputs and workpads of children, its run, its budget.

Each reading goes through the journal, so that a replay sees what was seen the first time.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from flakes.harness.children import Child, Result
from flakes.harness.errors import HarnessError
from flakes.harness.schemas import converted

if TYPE_CHECKING:
    from flakes.harness.replay import Replay
    from flakes.harness.spawning import Spawner

T = TypeVar("T")
Dimension = Literal["children", "tokens", "costMicroUsd", "wallMs"]
INFINITE: Final = float("inf")
OUTPUT_BYTES_MAX: Final = 8 * 1024 * 1024
"""What a harness reads of one output: it decides, children do the work."""


@dataclass(frozen=True, slots=True)
class Task:
    """The harness's own task."""

    task_id: str
    task_key: str = ""
    run_id: str = ""
    run_key: str = ""
    budget: Mapping[str, int] = field(default_factory=dict)


class ChildOutputs:
    """`ctx.outputs`: outputs of children, also large ones and those of children by key."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    async def read_text(self, child: Child[Any] | Result[Any] | str, key: str = "result") -> str:
        """A text output of a child that has ended; at most 8 MiB."""
        name = child if isinstance(child, str) else child.key
        content, offset, size_bytes = bytearray(), 0, 1
        while offset < size_bytes:
            body = {"task": name, "outputKey": key, "offset": offset}
            piece = await self._replay.call("task.output", body, f"read {name}/{key}")
            size_bytes = piece["sizeBytes"]
            if size_bytes > OUTPUT_BYTES_MAX:
                raise HarnessError(
                    "harness_limit", f"{name}/{key} has {size_bytes} bytes, more than {OUTPUT_BYTES_MAX}",
                    "let a child read it, and leave a smaller output",
                )  # fmt: skip
            content += base64.b64decode(piece["bytesBase64"])
            offset = len(content)
        return content.decode("utf-8", "replace")

    async def read_json(self, child: Child[Any] | Result[Any] | str, key: str, schema: type[T]) -> T:
        """A JSON output of a child that has ended, as this type."""
        text = await self.read_text(child, key)
        try:
            return converted(json.loads(text), schema)
        except ValueError as error:
            raise HarnessError("output_schema_mismatch", f"{key} is not JSON: {error}", "let the child write JSON") from error


class Workpads:
    """`ctx.workpads`."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    async def read(self, task: Child[Any] | Result[Any] | str | None = None) -> str:
        """The Markdown of the harness's own workpad, or of a child or another task of the run (by key) as it is
        now; empty when nobody has written."""
        if task is None:
            return (await self._replay.call("workpad.read", {}, "read the workpad"))["bodyMarkdown"]
        if isinstance(task, Child):
            await task.task_id()  # it is made by then
        name = task if isinstance(task, str) else task.key
        return (await self._replay.call("task.workpad", {"task": name}, f"read the workpad of {name}"))["bodyMarkdown"]

    async def save(self, text: str) -> int:
        """Save a new version of the own workpad; its number."""
        current = await self._replay.call("workpad.read", {}, "read the workpad")
        body = {"bodyMarkdown": text, "baseVersion": current["version"]}
        return (await self._replay.call("workpad.save", body, "save the workpad"))["version"]


class Run:
    """`ctx.run`: the tasks of the run, and messages that people send to the harness."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    async def roster(self) -> list[Mapping[str, Any]]:
        """The tasks of the run as they are now: `taskKey`, `title`, `adapter`, `status`, ..."""
        found: list[Mapping[str, Any]] = []
        cursor: str | None = None
        while True:
            page = await self._replay.call("run.tasks", {"cursor": cursor} if cursor else {}, "tasks of the run")
            found += page["tasks"]
            cursor = page.get("nextCursor")
            if cursor is None:
                return found

    async def messages(self) -> list[str]:
        """What was said to this task and not read yet, oldest first."""
        found = await self._replay.call("inbox.read", {}, "read messages")
        ids = [each["id"] for each in found["messages"]]
        if ids:
            await self._replay.call("inbox.consume", {"messageIds": ids}, "acknowledge messages")
        return [each["text"] for each in found["messages"]]


@dataclass(frozen=True, slots=True)
class BudgetNow:
    """How budgets stood when they were read. `spent` is what the harness's task and all below it have spent and
    made; `left` and `limit` are those of the narrowest bound on it (its own, one above it, or its run's). No bound
    is infinite."""

    body: Mapping[str, Any]

    def spent(self, dimension: Dimension) -> int:
        """So much was spent, or so many children made."""
        return self.body["spent"][dimension]

    def left(self, dimension: Dimension) -> float:
        """So much may be spent still, or so many made."""
        return min((each["left"] for each in self._bounds(dimension)), default=INFINITE)

    def limit(self, dimension: Dimension) -> float:
        """What may be spent or made in all, where least is left."""
        narrowest = min(self._bounds(dimension), key=lambda each: each["left"], default=None)
        return INFINITE if narrowest is None else narrowest["limit"]

    def _bounds(self, dimension: Dimension) -> list[Mapping[str, Any]]:
        return [each for each in self.body["bounds"] if each["bound"] == dimension]


class Budget:
    """`ctx.budget`: what the harness and its children may spend and make. Each reading is in the journal, so what
    was decided by it is decided the same way in every replay."""

    def __init__(self, replay: Replay, limits: Mapping[str, int], spawner: Spawner) -> None:
        self._replay = replay
        self._limits = limits
        self._spawner = spawner

    async def read(self) -> BudgetNow:
        """How all of it stands now. Children that were begun and not awaited count from the next await on."""
        return BudgetNow(await self._replay.call("budget.read", {}, "read the budget"))

    async def spent(self, dimension: Dimension) -> int:
        """So much was spent, or so many children made, by the task and all below it."""
        return (await self.read()).spent(dimension)

    async def left(self, dimension: Dimension) -> float:
        """So much may be spent still, or so many made."""
        return (await self.read()).left(dimension)

    def total(self, dimension: Dimension) -> float:
        """What the task's own budget was when it was submitted; owners may extend it."""
        return self._limits.get(dimension, INFINITE)

    @property
    def children(self) -> int:
        """Children that this harness has begun so far."""
        return self._spawner.count
