"""Live children: prompts that they take one after the other, and what each of these rounds came to."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flakes.core.keys import is_key, key_from
from flakes.harness.children import Child, Left
from flakes.harness.declaring import PRIMARY, OutputSpec, spec_of
from flakes.harness.errors import HarnessError

if TYPE_CHECKING:
    from flakes.harness.replay import Replay

T = TypeVar("T")
COMPLETED = "COMPLETED"
ASKED = f"\n\nLeave it as the file `$FLAKES_OUTPUTS/{PRIMARY}`"
"""Between a prompt and what its output has to be."""


class RoundResult(Left[T]):
    """What a round came to: `status` is COMPLETED, FAILED or CANCELLED; `text` and outputs as of a child."""

    @property
    def ok(self) -> bool:
        """Whether it was completed."""
        return self.status == COMPLETED


class Round(Generic[T]):
    """A round that was sent. Awaiting it waits for its end; raises `HarnessError` (`round_unsuccessful`)."""

    def __init__(self, replay: Replay, child: Child[Any], key: str, spec: Any, sent: Any) -> None:
        self._replay = replay
        self._child = child
        self._spec = spec
        self._sent = sent
        self._end: Any = None
        self.key = key

    def __await__(self) -> Generator[Any, None, RoundResult[T]]:
        return self._completed().__await__()

    async def settled(self) -> RoundResult[T]:
        """What it came to, also when it failed."""
        await self._replay.result(self._sent)
        if self._end is None:
            about = {"task": self._child.key, "roundKey": self.key}
            self._end = self._replay.start("round", about, f"wait for {self._child.key}/{self.key}")
        body = await self._replay.result(self._end)
        return RoundResult(body, {PRIMARY: self._spec} if self._spec is not None else {})

    async def _completed(self) -> RoundResult[T]:
        result = await self.settled()
        if not result.ok:
            raise HarnessError(
                "round_unsuccessful", f"the round {self._child.key}/{self.key} ended {result.status}: {result.reason}",
                "look at the child, or wait with `settled()`", key=self._child.key, round=self.key, status=result.status,
            )  # fmt: skip
        return result


class LiveTasks:
    """`ctx.live_tasks`."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def send(
        self, child: Child[Any], prompt: str, *, key: str | None = None, payload: Any = None, output: type[T] | Any = None
    ) -> Round[T]:
        """Send a prompt to a live child; await the round for what it comes to. `output` is the type of what it
        leaves as `result`."""
        if not child.live:
            raise HarnessError("child_not_live", f"the child `{child.key}` takes no rounds", "begin it with `live=True`")
        if key is not None and not is_key(key):
            raise HarnessError("child_invalid", f"{key!r} is not the key of a round", f"write {key_from(key, 'round')!r}")
        child.rounds += 1
        number = self._replay.earlier.number
        key = key or f"round-{child.rounds}"
        key = key if number == 1 else f"{key[:58]}-r{number}"
        spec = spec_of(output)
        if spec is not None and child.is_agent:
            prompt = f"{prompt}{ASKED}: {_asked(spec)}."
        body: dict[str, Any] = {"task": child.key, "prompt": prompt, "roundKey": key}
        body |= {"payload": payload} if payload is not None else {}
        request = {"operation": "round.send", "body": body, "named": True}
        sent = self._replay.start("call", request, f"send {child.key}/{key}")
        return Round(self._replay, child, key, spec, sent)

    async def finish(self, child: Child[Any]) -> None:
        """No more prompts: the child ends when its rounds are over; await it then."""
        await self._replay.call("round.finish", {"task": child.key}, f"finish {child.key}")

    async def rounds(self, child: Child[Any]) -> list[Mapping[str, Any]]:
        """Its rounds so far, oldest first."""
        return (await self._replay.call("round.list", {"task": child.key}, f"rounds of {child.key}"))["rounds"]


def _asked(spec: OutputSpec[Any]) -> str:
    """What a prompt to an agent says of the file that it has to leave."""
    schema = spec.definition.get("schema")
    return f"JSON, valid by this JSON Schema: `{json.dumps(schema)}`" if schema else "JSON" if spec.kind == "json" else "text"
