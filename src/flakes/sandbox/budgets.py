"""The budget of one attempt: what was spent against what may be, looked at whenever something was spent.

A hit does not kill: it interrupts the turn, and the owner is asked whether to go on with as much again.
Earlier attempts of the task count. How many children a task may have is the control plane's to say.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from flakes.wire.tasks import TaskBudget
from flakes.wire.transcripts import AgentUsage


@dataclass(frozen=True, slots=True)
class Hit:
    """A bound that was reached: `what` in words, `spent` and `limit` in its unit."""

    name: str
    what: str
    spent: int
    limit: int

    @property
    def sentence(self) -> str:
        return f"the task has used {self.spent:,} of its {self.limit:,} {self.what}"


_WORDS = {
    "tokens": "tokens",
    "cost_micro_usd": "millionths of a dollar",
    "wall_ms": "milliseconds of working time",
}


def bounds(budget: TaskBudget | None) -> dict[str, int]:
    """A budget by name, as in a task's definition."""
    return {} if budget is None else {n: b for n, b in msgspec.to_builtins(budget).items() if b is not None}


class Budget:
    """Bounds that grow when the owner says so."""

    def __init__(self, budget: TaskBudget | None, before: AgentUsage | None) -> None:
        self._granted = {
            name: limit for name in _WORDS if budget and (limit := getattr(budget, name)) is not None
        }
        self._limits = dict(self._granted)
        self._before = before or AgentUsage()

    def __bool__(self) -> bool:
        return bool(self._limits)

    @property
    def wall_ms(self) -> int | None:
        """How long the attempt may work."""
        return self._limits.get("wall_ms")

    def hit(self, spent: AgentUsage, worked_ms: int) -> Hit | None:
        """The first bound that is reached."""
        cost = (self._before.cost_micro_usd or 0) + (spent.cost_micro_usd or 0)
        values = {
            "tokens": self._before.tokens + spent.tokens, "cost_micro_usd": cost, "wall_ms": worked_ms,
        }  # fmt: skip
        for name, limit in self._limits.items():
            if values[name] >= limit:
                return Hit(name, _WORDS[name], values[name], limit)
        return None

    def extend(self, hit: Hit) -> int:
        """As much again, on top of what was spent; the new bound."""
        self._limits[hit.name] = max(hit.limit, hit.spent) + max(1, self._granted[hit.name])
        return self._limits[hit.name]
