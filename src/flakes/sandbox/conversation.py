"""The one lifecycle of every agent that converses: which turn comes next, and when there is none any more.

The first turn is the brief. After a turn that ended well come, in this order: what people sent to be a turn
of its own, a correction while declared outputs are missing or not valid (a bounded number of them), and
nothing. A turn that was interrupted goes on with the message that interrupted it, or with the question
whether a budget that was reached may be extended. "The agent said it is done" and "what it promised is
there" are never the same thing here, and whether the task succeeded is not said here at all.

Knows no agent's wire and no control plane. Everything said either way is in the transcript.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from flakes.agents.base import AgentError, AgentEvent, Capabilities, Driver, TurnResult
from flakes.sandbox.asking import Permissions
from flakes.sandbox.brief import correction, extended
from flakes.sandbox.budgets import Budget, Hit
from flakes.sandbox.inbox import Inbox
from flakes.sandbox.transcript import TranscriptSink, agent_usage

CORRECTIONS_MAX: Final = 2

Problem = Callable[[], Awaitable[AgentError | None]]
"""What is wrong with the declared outputs as they are now."""


class Conversation:
    """One attempt's turns; the inbox hands messages to it."""

    def __init__(
        self,
        driver: Driver,
        inbox: Inbox,
        transcript: TranscriptSink,
        permissions: Permissions,
        budget: Budget,
        problem: Problem,
    ) -> None:
        self._driver = driver
        self._inbox = inbox
        self._transcript = transcript
        self._permissions = permissions
        self._budget = budget
        self._problem = problem
        self._hit: Hit | None = None
        self._interrupting: asyncio.Task[None] | None = None
        self._began_s = time.monotonic()
        self._paused_s = 0.0

    async def run(self, text: str, op_id: str, source: str) -> TurnResult:
        """Take turns until there is nothing more to say; the last one's end."""
        corrections = 0
        if (hit := self._over()) is not None and (refused := await self._ask_to_extend(hit)) is not None:
            return refused  # earlier attempts have used it up
        while True:
            turn = await self._turn(text, op_id, source)
            if turn.status not in ("completed", "interrupted"):
                return turn
            if turn.status == "interrupted" and self._hit is not None:
                hit, self._hit = self._hit, None
                refused = await self._ask_to_extend(hit)
                if refused is not None:
                    return refused
                text, op_id, source = extended(hit), f"{op_id} extended", "budget"
                continue
            said = await self._inbox.follow_up()
            if said is not None:
                text, op_id, source = said.text, said.message_id, said.mode
                continue
            if turn.status == "interrupted":
                return turn
            problem = await self._problem()
            if problem is None or corrections == CORRECTIONS_MAX:
                return turn
            corrections += 1
            text, op_id = correction(problem), f"{op_id} correction {corrections}"
            source = "correction"

    async def _turn(self, text: str, op_id: str, source: str) -> TurnResult:
        about = {"text": text, "source": source, "id": op_id}
        self._transcript.add("prompt", about)
        watch = asyncio.create_task(self._watch_time()) if self._budget.wall_ms is not None else None
        try:
            turn = await self._driver.turn(text, op_id)
        finally:
            if watch is not None:
                watch.cancel()
            if self._interrupting is not None:
                await asyncio.wait({self._interrupting})
                self._interrupting = None
        ended: dict[str, object] = {"status": turn.status}
        if turn.error is not None:
            ended["error"] = {"code": turn.error.code, "message": turn.error.message}
        if turn.usage is not None:
            ended["usage"] = msgspec.to_builtins(agent_usage(turn.usage))
        self._transcript.add("turn", ended)
        if turn.status == "completed" and self._hit is not None:
            self._hit = None  # it was done before it could be interrupted
        return turn

    # ---- budgets

    def spent(self, event: AgentEvent) -> None:
        """Something was spent: interrupt the turn when that was too much."""
        if event.kind == "usage":
            self._look_at_budget()

    def _look_at_budget(self) -> None:
        if not self._budget or self._hit is not None:
            return
        self._hit = self._over()
        if self._hit is not None:
            self._transcript.add("notice", {"level": "warning", "text": self._hit.sentence})
            # Not from within the driver's own reading, which the interrupt may wait for.
            self._interrupting = asyncio.create_task(self._interrupt())

    def _over(self) -> Hit | None:
        worked_ms = int((time.monotonic() - self._began_s - self._paused_s) * 1000)
        return self._budget.hit(agent_usage(self._transcript.usage), worked_ms)

    async def _interrupt(self) -> None:
        try:
            await self._driver.interrupt()
        except AgentError as error:
            self._transcript.add("notice", {"level": "error", "text": error.message})

    async def _watch_time(self) -> None:
        while (wall_ms := self._budget.wall_ms) is not None:
            worked_s = time.monotonic() - self._began_s - self._paused_s
            await asyncio.sleep(max(0.01, wall_ms / 1000 - worked_s))
            self._look_at_budget()

    async def _ask_to_extend(self, hit: Hit) -> TurnResult | None:
        paused_s = time.monotonic()
        details = {"budget": hit.name, "spent": hit.spent, "limit": hit.limit}
        prompt = f"Extend the budget? {hit.sentence[0].upper()}{hit.sentence[1:]}."
        decision = await self._permissions.ask(f"budget {hit.name} {hit.limit}", prompt, "extend", details)
        self._paused_s += time.monotonic() - paused_s
        if decision.allowed:
            limit = self._budget.extend(hit)
            self._transcript.add("notice", {"level": "info", "text": f"the budget was extended to {limit:,}"})
            return None
        reason = f": {decision.reason}" if decision.reason else ""
        return TurnResult("limit", error=AgentError(
            "budget_exhausted", f"{hit.sentence}, and it was not extended{reason}",
            "give the task a larger `budget`, or split it", details=details,
        ))  # fmt: skip

    # ---- for the inbox

    def capabilities(self) -> Capabilities:
        return self._driver.capabilities()

    async def steer(
        self, text: str, op_id: str
    ) -> Literal["injected", "queued", "idle", "unsupported"]:
        """Say something into the running turn."""
        answer = await self._driver.steer(text, op_id)
        if answer in ("injected", "queued"):
            self._transcript.add("steer", {"text": text, "id": op_id})
        return answer

    async def interrupt(self) -> None:
        """End the running turn, for what a person has to say."""
        await self._driver.interrupt()
