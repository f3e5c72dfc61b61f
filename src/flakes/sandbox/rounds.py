"""Live rounds of an agent that converses: each prompt is a turn of the same conversation.

The agent need not know how prompts come and go: the next one is taken when it has closed the last, which is completed
with its closing words and the files that it left. One that takes and completes rounds by its tools may do so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Final, Literal

import msgspec

from flakes.core import limits
from flakes.core.keys import is_key
from flakes.wire.codec import BodyError, decode, encode
from flakes.wire.rounds import Round, RoundComplete, RoundGiven, RoundNext, RoundOutput

HOLD_S: Final = 10.0
"""How long an agent stays up for its next prompt; a later one finds its session kept."""

Perform = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]


class LiveRounds:
    """The rounds of one attempt. `kept`: outputs that the task itself has to leave at its end."""

    def __init__(self, perform: Perform, outputs_dir: Path, kept: Collection[str]) -> None:
        self._perform = perform
        self._outputs_dir = outputs_dir
        self._kept = frozenset(kept)

    async def next(self) -> RoundGiven:
        """The next round, or that there will be none; neither means that the attempt is to end for now."""
        status, answer = await self._perform("round.next", encode(RoundNext(hold_s=HOLD_S)))
        try:
            return decode(answer, RoundGiven) if status == 200 else RoundGiven(finishing=True)
        except BodyError:
            return RoundGiven(finishing=True)

    async def complete(self, done: Round, text: str) -> None:
        """The turn has ended well. A round that the agent itself has completed stays as it is."""
        outputs: dict[str, RoundOutput] = {}
        room_bytes = limits.ROUND_OUTPUTS_BYTES_MAX - limits.KIB
        for path in sorted(self._outputs_dir.iterdir()) if self._outputs_dir.is_dir() else ():
            if path.is_symlink() or not path.is_file() or not is_key(path.stem):
                continue
            if path.stem not in outputs and len(outputs) < limits.DECLARED_OUTPUTS_MAX:
                content = path.read_bytes()[: room_bytes + 1].decode("utf-8", "replace")
                room_bytes -= len(encode(content))
                if room_bytes < 0:
                    break
                outputs[path.stem] = RoundOutput(kind=_kind(path, content), text=content)
            if path.stem not in self._kept:
                path.unlink(missing_ok=True)
        body = RoundComplete(
            round_key=done.round_key, text=text[: limits.ROUND_PROMPT_LENGTH_MAX], outputs=outputs
        )
        await self._perform("round.complete", encode(body))


def _kind(path: Path, content: str) -> Literal["text", "json"]:
    if path.suffix != ".json":
        return "text"
    try:
        msgspec.json.decode(content)
    except msgspec.DecodeError:
        return "text"
    return "json"
