"""The one lifecycle of every agent that converses: which turn comes next, and when there is none any more.

The first turn is the brief. After a turn that ended well come, in this order: what people sent to be a turn
of its own, a correction while declared outputs are missing or not valid (a bounded number of them), and
nothing. A turn that was interrupted goes on with the message that interrupted it, or with the question
whether a budget that was reached may be extended. Of a live task every prompt is a turn, after which its round is
completed (`rounds`). "The agent said it is done" and "what it promised is
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
from flakes.sandbox.brief import correction, extended, resumed_after_pause
from flakes.sandbox.budgets import Budget, Hit, SharedBudget
from flakes.sandbox.inbox import Inbox
from flakes.sandbox.rounds import LiveRounds
from flakes.sandbox.transcript import TranscriptSink, agent_usage
from flakes.wire.rounds import Round
from flakes.wire.transcripts import AgentUsage

CORRECTIONS_MAX: Final = 2
PATIENCE_S: Final = 10.0
"""How long an agent whose slice is spent works on while the control plane does not say whether it may."""

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
        shared: SharedBudget,
        problem: Problem,
        live: LiveRounds | None = None,
    ) -> None:
        self._driver = driver
        self._inbox = inbox
        self._transcript = transcript
        self._permissions = permissions
        self._budget = budget
        self._shared = shared
        self._problem = problem
        self._live = live
        self._round: Round | None = None
        """What the agent was prompted to do, when the task is live."""
        self._round_pending = False
        self._hit: Hit | None = None
        self._waits = False
        """The turn was interrupted because the control plane does not answer."""
        self._interrupting: asyncio.Task[None] | None = None
        self._reserving: asyncio.Task[None] | None = None
        self._unpriced = False
        self._began_s = time.monotonic()
        self._paused_s = 0.0
        transcript.worked_ms = self._worked_ms

    async def run(self, text: str, op_id: str, source: str) -> TurnResult:
        """Take turns until there is nothing more to say; the last one's end."""
        corrections = 0
        if (refused := await self._allowed()) is not None:
            return refused  # others, or earlier attempts, have used it up
        if self._live is not None:
            prompt = await self._prompted(self._live)
            if prompt is None and (self._round_pending or await self._problem() is None):
                return TurnResult("completed")
            if prompt is not None:
                text, source = "\n\n".join(part for part in (text.rstrip(), prompt) if part), "round"
        while True:
            turn = await self._turn(text, op_id, source)
            if turn.status not in ("completed", "interrupted"):
                return turn
            if turn.status == "interrupted" and (self._hit is not None or self._waits):
                hit, self._hit, self._waits = self._hit, None, False
                if (refused := await self._allowed(hit)) is not None:
                    return refused
                text = extended(hit.sentence) if hit is not None else resumed_after_pause()
                op_id, source = f"{op_id} extended", "budget"
                continue
            said = await self._inbox.follow_up()
            if said is not None:
                text, op_id, source = said.text, said.message_id, said.mode
                continue
            if turn.status == "interrupted":
                return turn
            if self._live is not None and self._round is not None:
                await self._live.complete(self._round, turn.text)
                op_id = f"{self._round.round_id} {op_id}"[:200]
                prompt = await self._prompted(self._live)
                if prompt is not None:
                    text, source, corrections = prompt, "round", 0
                    continue
                if self._round_pending:
                    return turn
            problem = await self._problem()
            if problem is None or corrections == CORRECTIONS_MAX:
                return turn
            corrections += 1
            text, op_id = correction(problem), f"{op_id} correction {corrections}"
            source = "correction"

    async def _prompted(self, live: LiveRounds) -> str | None:
        """The next prompt. None when there will be no more, or (`_round_pending`) when there is none yet."""
        paused_s = time.monotonic()
        given = await live.next()
        self._paused_s += time.monotonic() - paused_s
        self._round = given.round
        self._round_pending = given.round is None and not given.finishing
        return None if given.round is None else given.round.prompt

    async def _turn(self, text: str, op_id: str, source: str) -> TurnResult:
        about = {"text": text, "source": source, "id": op_id}
        self._transcript.add("prompt", about)
        watch = asyncio.create_task(self._watch_time()) if self._wall_ms() is not None else None
        try:
            turn = await self._driver.turn(text, op_id)
        finally:
            for task in (watch, self._reserving):
                if task is not None:
                    task.cancel()
            self._reserving = None
            if self._interrupting is not None:
                await asyncio.wait({self._interrupting})
                self._interrupting = None
        ended: dict[str, object] = {"status": turn.status}
        if turn.error is not None:
            ended["error"] = {"code": turn.error.code, "message": turn.error.message}
        if turn.usage is not None:
            ended["usage"] = msgspec.to_builtins(agent_usage(turn.usage))
        if "wallMs" in self._budget or "wallMs" in self._shared:
            self._transcript.tell_usage()
        self._transcript.add("turn", ended)
        if turn.status == "completed":
            self._hit, self._waits = None, False  # it was done before it could be interrupted
        return turn

    # ---- budgets

    def spent(self, event: AgentEvent) -> None:
        """Something was spent: reserve more of what is shared, and interrupt the turn when it was too much."""
        if event.kind != "usage":
            return
        priced = event.data["usage"].cost_usd is not None
        if not priced and not self._unpriced and ("costMicroUsd" in self._budget or "costMicroUsd" in self._shared):
            self._unpriced = True
            text = "the agent does not say what it costs: its budget of money bounds nothing"
            self._transcript.add("notice", {"level": "warning", "text": text})
        self._look_at_budget()

    def _look_at_budget(self) -> None:
        if self._hit is not None or self._waits:
            return
        now = self._usage()
        self._hit = self._budget.hit(now) or self._shared.hit(now)
        if self._hit is not None:
            self._stop(self._hit.sentence)
        elif self._reserving is None and self._shared.due(now):
            self._reserving = asyncio.create_task(self._reserve())

    async def _reserve(self) -> None:
        """The next slice, while the agent works on; for too long it does not without one."""
        asking = asyncio.ensure_future(self._shared.reserve(self._usage()))
        try:
            await asyncio.wait({asking}, timeout=PATIENCE_S)
            while not asking.done():
                if self._shared.spent(self._usage()) and not self._waits:
                    self._waits = True
                    self._stop("the control plane does not say whether the agent may spend more")
                await asyncio.wait({asking}, timeout=1.0)
        finally:
            asking.cancel()
        self._reserving = None
        self._look_at_budget()

    def _stop(self, why: str) -> None:
        self._transcript.add("notice", {"level": "warning", "text": why})
        # Not from within the driver's own reading, which the interrupt may wait for.
        self._interrupting = asyncio.create_task(self._interrupt())

    async def _interrupt(self) -> None:
        try:
            await self._driver.interrupt()
        except AgentError as error:
            self._transcript.add("notice", {"level": "error", "text": error.message})

    def _usage(self) -> AgentUsage:
        return msgspec.structs.replace(agent_usage(self._transcript.usage), worked_ms=self._worked_ms())

    def _worked_ms(self) -> int:
        return int((time.monotonic() - self._began_s - self._paused_s) * 1000)

    def _wall_ms(self) -> int | None:
        return min((ms for ms in (self._budget.wall_ms, self._shared.wall_ms) if ms is not None), default=None)

    async def _watch_time(self) -> None:
        while (wall_ms := self._wall_ms()) is not None:
            await asyncio.sleep(max(0.05, (wall_ms - self._worked_ms()) / 1000))
            self._look_at_budget()

    async def _allowed(self, hit: Hit | None = None) -> TurnResult | None:
        """Until the agent may spend again: a slice of what is shared, and what owners say of what is used up.
        None when it may, else how the attempt ends."""
        paused_s = time.monotonic()
        try:
            while True:
                if hit is None or hit.shared:
                    await self._shared.reserve(self._usage_at(paused_s))
                    hit = self._budget.hit(self._usage_at(paused_s)) or self._shared.hit(self._usage_at(paused_s))
                if hit is None:
                    return None
                if (refused := await self._ask_to_extend(hit)) is not None:
                    return refused
                hit = None
        finally:
            self._paused_s += time.monotonic() - paused_s

    def _usage_at(self, at_s: float) -> AgentUsage:
        """What had been spent when a pause began."""
        worked_ms = int((at_s - self._began_s - self._paused_s) * 1000)
        return msgspec.structs.replace(agent_usage(self._transcript.usage), worked_ms=worked_ms)

    async def _ask_to_extend(self, hit: Hit) -> TurnResult | None:
        asked = hit.question
        details = msgspec.to_builtins(asked)
        prompt = f"Extend the budget? {hit.sentence[0].upper()}{hit.sentence[1:]}."
        name = f"budget {asked.scope_id} {asked.budget} {asked.limit}"
        decision, permission_id = await self._permissions.request(name, prompt, "extend", details)
        if not decision.allowed:
            reason = f": {decision.reason}" if decision.reason else ""
            return TurnResult("limit", error=AgentError(
                "budget_exhausted", f"{hit.sentence}, and it was not extended{reason}",
                f"give {'the task' if not hit.shared else hit.who} a larger `budget`, or split the work",
                details=details,
            ))  # fmt: skip
        if not hit.shared:
            limit = self._budget.extend(hit)
            self._transcript.add("notice", {"level": "info", "text": f"the budget was extended to {limit:,}"})
        await self._shared.extend(permission_id)
        return None

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
