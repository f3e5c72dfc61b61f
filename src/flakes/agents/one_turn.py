"""What adapters have in common whose attempt is one process that is never spoken to: `command` and `harness`."""

from __future__ import annotations

from typing import Literal

from flakes.agents.base import Capabilities, Check, Installation, Process

GRACE_S = 5.0
"""How long the process may take to end by itself when it is interrupted."""


class OneTurn:
    """The part of `agents.base.Driver` that is the same for them; `_process` is set when it has started."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._interrupted = False

    def capabilities(self) -> Capabilities:
        return Capabilities(inbox=True)

    async def check(self, installation: Installation) -> Check:
        return Check(usable=True)

    async def steer(
        self, text: str, op_id: str
    ) -> Literal["injected", "queued", "idle", "unsupported"]:
        return "unsupported"

    async def interrupt(self) -> None:
        self._interrupted = True
        if self._process is not None:
            await self._process.terminate(GRACE_S)

    async def close(self, grace_s: float) -> None:
        return
