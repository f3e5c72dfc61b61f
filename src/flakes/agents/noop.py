"""The `noop` adapter: completes at once, starts nothing, touches no disk.

It exists to measure the product itself (scheduling, streams, the journal) without the cost of
processes, and to try out the shape of a graph. It does no work; do not use it for any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from flakes.agents.base import Capabilities, Check, Host, Installation, Job, SessionRef, TurnResult


class NoopDriver:
    """Answers every turn with nothing."""

    def capabilities(self) -> Capabilities:
        return Capabilities(directory=False)

    async def check(self, installation: Installation) -> Check:
        return Check(usable=True)

    async def open(self, job: Job, host: Host) -> SessionRef | None:
        return None

    async def turn(
        self, text: str, op_id: str, schema: Mapping[str, Any] | None = None
    ) -> TurnResult:
        return TurnResult("completed")

    async def steer(
        self, text: str, op_id: str
    ) -> Literal["injected", "queued", "idle", "unsupported"]:
        return "unsupported"

    async def interrupt(self) -> None:
        return

    async def close(self, grace_s: float) -> None:
        return
