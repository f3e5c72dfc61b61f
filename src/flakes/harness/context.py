"""`ctx`: everything that a harness does goes through here, and so through its journal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar, overload

from flakes.core.keys import is_key
from flakes.harness import surroundings as around
from flakes.harness.children import Child, Result, listed, wait_for
from flakes.harness.declaring import Outputs, OutputSpec
from flakes.harness.definition import Defaults, Outcome
from flakes.harness.errors import HarnessError
from flakes.harness.files import Workspace
from flakes.harness.groups import Group, Groups
from flakes.harness.live import LiveTasks
from flakes.harness.replay import Replay
from flakes.harness.spawning import Options, Spawner

A = TypeVar("A")
T = TypeVar("T")

Input = Child[Any] | Result[Any]
JOINED_MAX: Final = 250
"""Children whose results come in one piece: what is written down of them stays well below what an entry of the
journal holds, however many are awaited together."""


class Context(Generic[A]):
    """The harness's world. `args` are the task's arguments."""

    def __init__(self, replay: Replay, args: A, defaults: Defaults, task: around.Task) -> None:
        self._replay = replay
        self._spawner = Spawner(replay, defaults, task.task_id)
        self._signals: dict[str, int] = {}
        self.args = args
        self.task = task
        self.output = Outputs()
        """Declarations of outputs: `json`, `text`, `workspace`."""
        self.groups = Groups(replay, self._spawner)
        self.outputs = around.ChildOutputs(replay)
        self.workpads = around.Workpads(replay)
        self.workspace = Workspace(replay)
        self.live_tasks = LiveTasks(replay)
        self.run = around.Run(replay)
        self.budget = around.Budget(replay, task.budget, self._spawner)

    # ---- children

    @overload
    def agent(
        self, prompt: str, *, title: str | None = ..., key: str | None = ..., adapter: str | None = ...,
        inputs: Sequence[Input] = ..., output: None = ..., live: bool = ..., **more: Any,
    ) -> Child[None]: ...  # fmt: skip
    @overload
    def agent(
        self, prompt: str, *, title: str | None = ..., key: str | None = ..., adapter: str | None = ...,
        inputs: Sequence[Input] = ..., output: type[T] | OutputSpec[T], live: bool = ..., **more: Any,
    ) -> Child[T]: ...  # fmt: skip
    def agent(self, prompt: str, *, title: str | None = None, **more: Any) -> Child[Any]:
        """Begin a child that an agent works on; await it for its `Result`.

        `inputs` are children that have ended: what they left is in the child's inputs, and said in its
        prompt. `output` is what it has to leave behind, as a type or a declaration; `outputs` more of them by
        key. `live` children take further rounds, and are asked to end when
        nobody prompts them for `idle_s`. The rest is as in the definition of a task: `adapter`,
        `model`, `effort`, `acceptance`, `verify`, `capabilities`, `grants`, `retry` (attempts),
        `timeout_s`, `optional`, `budget`, `metadata`, `detached`.
        """
        return self._spawner.agent(prompt, title, Options.of(more))

    @overload
    def command(
        self, line: str | Sequence[str], *, title: str | None = ..., key: str | None = ...,
        inputs: Sequence[Input] = ..., output: None = ..., **more: Any,
    ) -> Child[None]: ...  # fmt: skip
    @overload
    def command(
        self, line: str | Sequence[str], *, title: str | None = ..., key: str | None = ...,
        inputs: Sequence[Input] = ..., output: type[T] | OutputSpec[T], **more: Any,
    ) -> Child[T]: ...  # fmt: skip
    def command(self, line: str | Sequence[str], *, title: str | None = None, **more: Any) -> Child[Any]:
        """Begin a child that runs a command: a line for the shell, or a program and its arguments. `env` are
        variables; everything else is as for `agent`."""
        return self._spawner.command(line, title, Options.of(more))

    async def all(self, *children: Child[T] | Iterable[Child[T]], settled: bool = False) -> list[Result[T]]:
        """Wait for all of them, and give their results in their order. One that did not succeed raises
        `ChildFailed` when all have ended, or is in the list with `settled=True`."""
        wanted: list[Child[T]] = listed(children)
        results: list[Result[T]] = []
        for at in range(0, len(wanted), JOINED_MAX):
            some = wanted[at : at + JOINED_MAX]
            results += await self._join(some, len(some), "all")
        return results if settled else [each.required() for each in results]

    async def any(self, *children: Child[T] | Iterable[Child[T]], cancel_rest: bool = False) -> Result[T]:
        """The first that succeeds. Raises `ChildFailed` when none does."""
        return (await self.quorum(*children, need=1, cancel_rest=cancel_rest))[0]

    async def quorum(
        self, *children: Child[T] | Iterable[Child[T]], need: int, cancel_rest: bool = False
    ) -> list[Result[T]]:
        """The first `need` that succeed, in the order in which they did. Raises `HarnessError`
        (`quorum_unreachable`) when too many fail."""
        wanted: list[Child[T]] = listed(children)
        if not 1 <= need <= len(wanted):
            raise HarnessError("join_empty", f"{need} of {len(wanted)} children cannot be waited for", "ask for fewer")
        good: list[Result[T]] = []
        while len(good) < need:
            seen = [each for each in wanted if each.result is not None]
            good = [each.result for each in seen if each.result is not None and each.result.ok]
            failed = len(seen) - len(good)
            if len(wanted) - failed < need:
                raise _unreachable(seen, need, len(wanted))
            if len(good) < need:
                await self._join(wanted, min(len(wanted), len(seen) + need - len(good)), f"{need}")
        good.sort(key=lambda each: each.order)
        if cancel_rest:
            await self.cancel(*[each for each in wanted if each.result is None], reason="the others were enough")
        return good[:need]

    async def cancel(self, *children: Child[Any] | Iterable[Child[Any]], reason: str = "cancelled by its parent") -> None:
        """Cancel children that still live."""
        wanted = listed(children) if children else []
        if wanted:
            ids = [await each.task_id() for each in wanted]
            await self._replay.call("task.cancel", {"tasks": ids, "reason": reason}, "cancel children")

    def group(
        self, key: str, *, join: str = "all_success", need: int | None = None, max_children: int | None = None,
        name: str | None = None,
    ) -> Group:  # fmt: skip
        """A group for ``async with``: opened at once, filled inside, closed and awaited at the end of the
        block. `join` is all_success, all_settled, first or quorum (then `need` says how many)."""
        return self.groups.make(key, join=join, need=need, max_children=max_children, name=name)

    # ---- values and waits

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.fromtimestamp(self._replay.now_ms() / 1000, UTC)

    def random(self) -> float:
        """At least 0, below 1."""
        return self._replay.value("random", self._replay.engine.random)

    async def sleep(self, seconds: float) -> None:
        """Wait so long; the slot is free meanwhile."""
        await self._replay.sleep(seconds)

    async def signal(self, name: str) -> Any:
        """Wait for the next signal of that name, and give what it carried."""
        if not is_key(name):
            raise HarnessError("signal_invalid", f"{name!r} is not the name of a signal", "use a-z, 0-9 and single dashes")
        before = self._replay.earlier.signals.get(name, [])
        number = self._signals.get(name, 0)
        self._signals[name] = number + 1
        extra = {"name": name} | ({"reused": before[number]} if number < len(before) else {})
        effect = self._replay.start("signal", {"name": name}, f"signal {name}", lambda: extra)
        return await self._replay.result(effect)

    def patched(self, name: str) -> bool:
        """Whether the code of a change runs: no in a replay of what was done before the change."""
        return self._replay.patched(name)

    # ---- telling

    def phase(self, name: str) -> None:
        """Say that a new part begins."""
        self._replay.say(f"== {name}")

    def log(self, *words: object) -> None:
        """A line for the task's log, once."""
        self._replay.say(" ".join(str(each) for each in words))

    # ---- ends

    def succeeded(self, message: str = "", /, **data: Any) -> Outcome:
        """The harness has done its work; `data` is its result."""
        return Outcome("succeeded", message, data)

    def failed(self, message: str, /, **data: Any) -> Outcome:
        """The harness could not do its work."""
        return Outcome("failed", message, data)

    def cancelled(self, message: str = "", /, **data: Any) -> Outcome:
        """The harness gives up."""
        return Outcome("cancelled", message, data)

    async def _join(self, children: list[Child[Any]], need: int, what: str) -> list[Result[Any]]:
        if not children:
            return []
        if any(each.result is None for each in children):
            effect = wait_for(self._replay, children, need, f"{what} of {len(children)} children")
            by_id = {each.spawn.id: each for each in children}
            for body in await self._replay.result(effect):
                by_id[self._replay.spawn_of(body["taskId"])].take(body)
        return [each.result for each in children if each.result is not None]


def _unreachable(seen: list[Child[Any]], need: int, total: int) -> HarnessError:
    failed = [each.result for each in seen if each.result is not None and not each.result.ok]
    if need == 1 and failed:
        failed[-1].required()
    names = ", ".join(f"`{each.key}` ({each.reason or each.status})" for each in failed)
    return HarnessError(
        "quorum_unreachable", f"{need} of {total} children were to succeed, and these did not: {names}",
        "look at the failed children, or ask for fewer",
    )  # fmt: skip
