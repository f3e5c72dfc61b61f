"""Groups of children: opened, filled, closed and awaited together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from flakes.core.keys import is_key, key_from
from flakes.harness.children import Child, Result
from flakes.harness.errors import HarnessError

if TYPE_CHECKING:
    from flakes.harness.context import Input
    from flakes.harness.declaring import OutputSpec
    from flakes.harness.replay import Replay
    from flakes.harness.spawning import Spawner

T = TypeVar("T")
JOINS = ("all_success", "all_settled", "first", "quorum")


class Group:
    """A group of children. `results` are there once it was awaited, in the order in which they were begun."""

    def __init__(self, replay: Replay, spawner: Spawner, key: str, join: str, request: dict[str, Any]) -> None:
        self._replay = replay
        self._spawner = spawner
        self._request = request
        self._closed = False
        self.key = key
        self.join = join
        self.children: list[Child[Any]] = []
        self.status = "OPEN"

    @overload
    def agent(
        self, prompt: str, *, title: str | None = ..., key: str | None = ..., adapter: str | None = ...,
        inputs: Sequence[Input] = ..., output: None = ..., **more: Any,
    ) -> Child[None]: ...  # fmt: skip
    @overload
    def agent(
        self, prompt: str, *, title: str | None = ..., key: str | None = ..., adapter: str | None = ...,
        inputs: Sequence[Input] = ..., output: type[T] | OutputSpec[T], **more: Any,
    ) -> Child[T]: ...  # fmt: skip
    def agent(self, prompt: str, *, title: str | None = None, **more: Any) -> Child[Any]:
        """Like `Context.agent`, in this group."""
        return self._add(self._spawner.agent(prompt, title, self._options(more)))

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
        """Like `Context.command`, in this group."""
        return self._add(self._spawner.command(line, title, self._options(more)))

    async def open(self) -> Group:
        """Open it; what is in the group before is an error."""
        effect = self._replay.start(
            "call", {"operation": "group.open", "body": self._request, "named": False}, f"open group {self.key}",
            lambda: {"group": self._request["groupKey"]},
        )  # fmt: skip
        await self._replay.result(effect)
        return self

    async def close(self) -> None:
        """It takes no more children."""
        if not self._closed:
            self._closed = True
            # A child that was not made yet would find the group closed.
            for each in self.children:
                await each.task_id()
            await self._replay.call("group.close", {"group": self._request["groupKey"]}, f"close group {self.key}")

    async def wait(self) -> list[Result[Any]]:
        """Wait until the group is settled: the results of the children that have ended by then. Raises
        `ChildFailed` where the rule of the group was not met."""
        await self.close()
        effect = self._replay.start("group", {"group": self._request["groupKey"], "spawns": [each.spawn.id for each in self.children]}, f"wait for group {self.key}")
        answer = await self._replay.result(effect)
        self.status = answer["status"]
        by_id = {each.spawn.id: each for each in self.children}
        for body in answer["children"]:
            by_id[self._replay.spawn_of(body["taskId"])].take(body)
        if self.status != "SUCCEEDED":
            self._failed()
        return self.results

    async def state(self) -> dict[str, Any]:
        """How it stands: `status`, `counts`."""
        return await self._replay.call("group.status", {"group": self._request["groupKey"]}, f"status of group {self.key}")

    async def cancel(self, reason: str = "cancelled by its parent") -> None:
        """Cancel the children of it that still live."""
        body = {"group": self._request["groupKey"], "reason": reason}
        await self._replay.call("group.cancel", body, f"cancel group {self.key}")

    @property
    def results(self) -> list[Result[Any]]:
        """Of the children that are known to have ended."""
        return [each.result for each in self.children if each.result is not None]

    async def __aenter__(self) -> Group:
        return await self.open()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.wait()

    def _failed(self) -> None:
        for each in self.results:
            each.required()
        raise HarnessError(
            "child_unsuccessful", f"the group `{self.key}` ended {self.status}", "look at its children"
        )

    def _add(self, child: Child[T]) -> Child[T]:
        self.children.append(child)
        return child

    def _options(self, more: dict[str, Any]) -> Any:
        from flakes.harness.spawning import Options

        if self._closed:
            raise HarnessError("child_invalid", f"the group `{self.key}` is closed", "open another one")
        return Options.of(more | {"group": self._request["groupKey"], "join": self.join})


class Groups:
    """`ctx.groups`."""

    def __init__(self, replay: Replay, spawner: Spawner) -> None:
        self._replay = replay
        self._spawner = spawner
        self._keys: set[str] = set()

    async def open(
        self, key: str, *, join: str = "all_success", need: int | None = None, max_children: int | None = None,
        name: str | None = None,
    ) -> Group:  # fmt: skip
        """Open a group, to be filled, closed and awaited by hand."""
        return await self.make(key, join=join, need=need, max_children=max_children, name=name).open()

    def make(
        self, key: str, *, join: str, need: int | None, max_children: int | None, name: str | None
    ) -> Group:
        """A group that is not open yet."""
        if not is_key(key):
            raise HarnessError("child_invalid", f"{key!r} is not the key of a group", f"write {key_from(key, 'group')!r}")
        if key in self._keys:
            raise HarnessError("child_invalid", f"there are two groups `{key}`", "give them different keys")
        if join not in JOINS or (need is not None) != (join == "quorum"):
            raise HarnessError("child_invalid", f"`join={join!r}, need={need}` is no rule", f"one of {', '.join(JOINS)}; `need` goes with quorum")
        self._keys.add(key)
        asked = {"groupKey": self._replay.earlier.group(key), "join": join, "quorum": need, "maxChildren": max_children, "name": name}
        return Group(self._replay, self._spawner, key, join, {name: each for name, each in asked.items() if each is not None})
