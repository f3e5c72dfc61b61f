"""Children of a harness: handles that are awaited, and the results that they give."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flakes.harness.declaring import PRIMARY, OutputSpec
from flakes.harness.errors import ChildFailed, HarnessError
from flakes.harness.schemas import converted

if TYPE_CHECKING:
    from flakes.harness.effects import Effect
    from flakes.harness.replay import Replay

T = TypeVar("T")
U = TypeVar("U")
SUCCEEDED = "SUCCEEDED"


class Left(Generic[T]):
    """What a child, or a round of one, has left behind."""

    def __init__(self, body: Mapping[str, Any], specs: Mapping[str, OutputSpec[Any]]) -> None:
        self._body = body
        self._specs = specs
        self.key: str = body["taskKey"]
        self.task_id: str = body["taskId"]
        self.status: str = body["status"]
        self.text: str = body.get("text") or ""
        error = body.get("error") or {}
        self.reason: str = error.get("message") or error.get("code") or ""

    @property
    def data(self) -> T:
        """The output that `output=` declared, as the type that was given."""
        return self.read(PRIMARY)

    def json(self, schema: type[U], key: str = PRIMARY) -> U:
        """A JSON output as this type, whatever was declared."""
        return converted(_parsed(key, self._content(key)), schema)

    def read(self, key: str) -> Any:
        """A declared output: text, or JSON as its type. Raises `HarnessError` (`output_missing`,
        `output_kind_mismatch`, `output_schema_mismatch`)."""
        content = self._content(key)
        spec = self._specs.get(key)
        kind = self._body["outputs"][key]["kind"]
        if kind != "json" and (spec is None or spec.kind != "json"):
            return content
        value = _parsed(key, content)
        return value if spec is None or spec.kind != "json" else converted(value, spec.kind_of)

    def workspace(self, key: str | None = None) -> str:
        """The handle of the files that it left: of the output `key`; without one its only workspace output, or
        else everything that it changed. Raises `HarnessError` (`output_missing`, `output_kind_mismatch`)."""
        if key is None:
            declared = self._declared()
            if not declared and self._body.get("workspaceId"):
                return self._body["workspaceId"]
            if len(declared) != 1:
                raise HarnessError(
                    "output_missing", f"the child `{self.key}` ({self.status}) left "
                    + (f"several workspaces: {', '.join(declared)}" if declared else "no files: it changed none"),
                    "name one of them" if declared else "let it change files in its working directory, and run the harness from files",
                )  # fmt: skip
            key = declared[0]
        found = self._output(key)
        if found["kind"] != "workspace":
            raise _mismatch(self.key, key, found["kind"], "a workspace")
        return found["workspaceId"]

    @property
    def files(self) -> dict[str, str]:
        """The handles of all files that it left, by output; what no output declares has an empty name."""
        found = {name: self._body["outputs"][name]["workspaceId"] for name in self._declared()}
        rest = self._body.get("workspaceId")
        return found | ({"": rest} if rest else {})

    def _declared(self) -> list[str]:
        return sorted(name for name, each in (self._body.get("outputs") or {}).items() if each["kind"] == "workspace")

    @property
    def outputs(self) -> list[str]:
        """The keys of what it left behind."""
        return sorted(self._body.get("outputs") or {})

    def _content(self, key: str) -> str:
        found = self._output(key)
        if found["kind"] == "workspace":
            raise _mismatch(self.key, key, "workspace", "text")
        if found.get("text") is None:
            raise HarnessError(
                "output_missing", f"the output `{key}` of `{self.key}` is large and was not fetched",
                f"use `await ctx.outputs.read_text(child, {key!r})`",
            )  # fmt: skip
        return found["text"]

    def _output(self, key: str) -> dict[str, Any]:
        found = (self._body.get("outputs") or {}).get(key)
        if found is None:
            left = ", ".join(f"`{each}`" for each in self.outputs) or "none"
            raise HarnessError(
                "output_missing", f"the child `{self.key}` ({self.status}) has no output `{key}`; it left {left}",
                "declare it with `output=` or `outputs=`, and let the child write it",
            )  # fmt: skip
        return found

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key} {self.status}>"


class Result(Left[T]):
    """How a child ended: `status` is SUCCEEDED, FAILED or CANCELLED; `text` the agent's closing words, or the
    tail of a command's output; `reason` why it did not succeed."""

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.status == SUCCEEDED

    @property
    def order(self) -> str:
        """Sorts results by when they ended."""
        return self._body.get("finishedAt") or ""

    def required(self) -> Result[T]:
        """Itself, when it succeeded; raises `ChildFailed`."""
        if not self.ok:
            raise ChildFailed(self.key, self.status, self.reason)
        return self


class Child(Generic[T]):
    """A child that was begun. Awaiting it waits for its end and gives its `Result`, or raises `ChildFailed`."""

    def __init__(
        self, replay: Replay, spawn: Effect, key: str, specs: Mapping[str, OutputSpec[Any]], *, live: bool
    ) -> None:
        self._replay = replay
        self.spawn = spawn
        self.key = key
        self.specs = specs
        self.live = live
        self.rounds = 0
        self.is_agent = False
        self._end: Effect | None = None
        self._result: Result[T] | None = None

    def __await__(self) -> Generator[Any, None, Result[T]]:
        return self._required().__await__()

    async def settled(self) -> Result[T]:
        """Its result, also of one that failed."""
        if self._result is None:
            if self._end is None:
                self._end = wait_for(self._replay, [self], 1, self.key)
            for body in await self._replay.result(self._end):
                self.take(body)
        assert self._result is not None
        return self._result

    async def task_id(self) -> str:
        """Its id, once it is made."""
        return (await self._replay.result(self.spawn))["taskId"]

    def take(self, body: Mapping[str, Any]) -> Result[T]:
        """Note how it ended."""
        self._result = Result(body, self.specs)
        return self._result

    @property
    def result(self) -> Result[T] | None:
        """What is known of its end."""
        return self._result

    async def _required(self) -> Result[T]:
        return (await self.settled()).required()

    def __repr__(self) -> str:
        return f"<Child {self.key}>"


def wait_for(replay: Replay, children: Sequence[Child[Any]], need: int, what: str) -> Effect:
    """The effect that so many of these children have ended; gives the bodies of their results."""
    request = {"spawns": [each.spawn.id for each in children], "need": need}
    return replay.start("children", request, f"wait for {what}")


def listed(children: tuple[Any, ...]) -> list[Child[Any]]:
    """Handles given one by one, or as one iterable; in their order, each once."""
    if len(children) == 1 and not isinstance(children[0], Child):
        children = tuple(children[0]) if isinstance(children[0], Iterable) else children
    for each in children:
        if not isinstance(each, Child):
            raise HarnessError(
                "child_invalid", f"{type(each).__name__} is not a child",
                "give what `ctx.agent` and `ctx.command` return, without awaiting it",
            )  # fmt: skip
    return list(dict.fromkeys(children))


def _parsed(key: str, content: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise HarnessError(
            "output_schema_mismatch", f"the output `{key}` is not JSON: {error}", "let the child write JSON"
        ) from error


def _mismatch(child: str, key: str, is_: str, wanted: str) -> HarnessError:
    return HarnessError(
        "output_kind_mismatch", f"the output `{key}` of `{child}` is {is_}, not {wanted}",
        "declare it with `ctx.output.workspace`, `ctx.output.text` or `ctx.output.json`",
    )  # fmt: skip
