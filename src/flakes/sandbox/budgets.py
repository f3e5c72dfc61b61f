"""The budgets of one attempt: what was spent against what may be, looked at whenever something was spent.

Its task's own budget is known here, with what earlier attempts have spent of it. Budgets that it shares (its run's,
those of tasks above it) are the control plane's: of them a slice is reserved before anything is spent, and the
next one before that is used up. A hit does not kill: it interrupts the turn, and the owner is asked whether to go
on with as much again. How many children a task may have is said where they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from flakes.sandbox.tools.server import Asks
from flakes.wire.budgets import (
    AnyBound,
    Bound,
    BudgetExtend,
    BudgetGrant,
    BudgetQuestion,
    BudgetReserve,
    BudgetShortage,
)
from flakes.wire.codec import BodyError, decode, encode
from flakes.wire.tasks import TaskBudget
from flakes.wire.transcripts import AgentUsage

NAMES: Final[dict[Bound, str]] = {
    "tokens": "tokens", "costMicroUsd": "cost_micro_usd", "wallMs": "wall_ms",
}  # fmt: skip
_WORDS: Final[dict[AnyBound, str]] = {
    "tokens": "tokens", "costMicroUsd": "millionths of a dollar", "wallMs": "milliseconds of working time",
    "children": "children",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hit:
    """A bound that was reached. `who` has used it up; `shared` is one that the control plane keeps."""

    question: BudgetQuestion
    who: str

    @property
    def shared(self) -> bool:
        return self.question.scope != "task"

    @property
    def sentence(self) -> str:
        asked = self.question
        return f"{self.who} has used {asked.spent:,} of its {asked.limit:,} {_WORDS[asked.budget]}"


def bounds(budget: TaskBudget | None) -> dict[str, int]:
    """A budget by name, as in a task's definition."""
    return {} if budget is None else {n: b for n, b in msgspec.to_builtins(budget).items() if b is not None}


class Budget:
    """The task's own bounds, which grow when the owner says so."""

    def __init__(
        self,
        task_id: str,
        budget: TaskBudget | None,
        before: AgentUsage | None,
        added: Mapping[str, int],
    ) -> None:
        self._task_id = task_id
        self._first: dict[AnyBound, int] = {
            bound: limit for bound, name in NAMES.items()
            if budget and (limit := getattr(budget, name)) is not None
        }  # fmt: skip
        self._limits: dict[AnyBound, int] = {
            bound: limit + added.get(bound, 0) for bound, limit in self._first.items()
        }
        self._before = _amounts(before or AgentUsage())

    def __contains__(self, bound: Bound) -> bool:
        return bound in self._limits

    @property
    def wall_ms(self) -> int | None:
        """How long this attempt may work."""
        limit = self._limits.get("wallMs")
        return None if limit is None else max(0, limit - self._before["wallMs"])

    def hit(self, usage: AgentUsage) -> Hit | None:
        """The first bound that is reached."""
        now = _amounts(usage)
        for bound, limit in self._limits.items():
            spent = self._before[bound] + now[bound]
            if spent >= limit:
                question = BudgetQuestion(
                    budget=bound, scope="task", scope_id=self._task_id, spent=spent, limit=limit
                )
                return Hit(question, "the task")
        return None

    def extend(self, hit: Hit) -> int:
        """As much again, on top of what was spent; the new bound."""
        asked = hit.question
        limit = max(asked.limit, asked.spent) + max(1, self._first[asked.budget])
        self._limits[asked.budget] = limit
        return limit


class SharedBudget:
    """The slices of one attempt. With `shares` False nothing is ever asked, and nothing bounded."""

    def __init__(self, assignment_id: str, forwarder: Asks, *, shares: bool) -> None:
        self._assignment_id = assignment_id
        self._forwarder = forwarder
        self._shares = shares
        self._granted: dict[AnyBound, int] = {}
        self._asked_at: dict[AnyBound, int] = {}
        self._shortage: BudgetShortage | None = None

    def __contains__(self, bound: Bound) -> bool:
        return bound in self._granted

    @property
    def wall_ms(self) -> int | None:
        return self._granted.get("wallMs")

    async def reserve(self, usage: AgentUsage) -> None:
        """Reserve the next slices; waits for the control plane. One that bounds nothing is not asked again."""
        if not self._shares:
            return
        now = _amounts(usage)
        body = BudgetReserve(**{name: now[bound] for bound, name in NAMES.items()})
        status, answer = await self._forwarder.ask(self._assignment_id, "budget.reserve", encode(body))
        try:
            grant = decode(answer, BudgetGrant) if status == 200 else None
        except BodyError:
            grant = None
        if grant is None:
            return  # the attempt is over, which it will hear
        self._granted = {
            bound: upto for bound, name in NAMES.items() if (upto := getattr(grant, name)) is not None
        }
        self._asked_at, self._shortage = now, grant.shortage
        self._shares = bool(self._granted)

    async def extend(self, permission_id: str) -> None:
        """Add to the budget what its owner has allowed, for those that share it and for later attempts."""
        body = BudgetExtend(permission_request_id=permission_id)
        await self._forwarder.ask(self._assignment_id, "budget.extend", encode(body))

    def due(self, usage: AgentUsage) -> bool:
        """Whether it is time for the next slice: half of one is spent."""
        now = _amounts(usage)
        return any(
            2 * (now[bound] - self._asked_at[bound]) >= upto - self._asked_at[bound]
            for bound, upto in self._granted.items()
        )

    def spent(self, usage: AgentUsage) -> bool:
        """Whether nothing more may be spent without another slice."""
        now = _amounts(usage)
        return any(now[bound] >= upto for bound, upto in self._granted.items())

    def hit(self, usage: AgentUsage) -> Hit | None:
        """The bound that has nothing left, once what was reserved is spent."""
        short = self._shortage
        if short is None or not self.spent(usage):
            return None
        who = f"the run {short.key}" if short.scope == "run" else f"the task {short.key}, with all below it,"
        question = BudgetQuestion(
            budget=short.bound, scope=short.scope, scope_id=short.scope_id, spent=short.spent,
            limit=short.limit,
        )  # fmt: skip
        return Hit(question, who)


def _amounts(usage: AgentUsage) -> dict[AnyBound, int]:
    return {
        "tokens": usage.tokens, "costMicroUsd": usage.cost_micro_usd or 0, "wallMs": usage.worked_ms,
    }  # fmt: skip
