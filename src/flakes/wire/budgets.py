"""Budgets that tasks share: a run's, and those of the tasks above a task. A sandbox reserves before its agent spends.

A bound counts what attempts have spent and what those that run have reserved; of money, what agents told. `wallMs`
is time at work, questions aside, of all attempts together.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from flakes.wire.codec import Body, Frozen

Amount = Annotated[int, Meta(ge=0)]
Bound = Literal["tokens", "costMicroUsd", "wallMs"]
AnyBound = Literal["tokens", "costMicroUsd", "wallMs", "children"]
"""`children` are counted when they are made: nothing of them is reserved."""


class BudgetReserve(Body, frozen=True, kw_only=True):
    """What the attempt has spent so far, in all."""

    tokens: Amount = 0
    cost_micro_usd: Amount = 0
    wall_ms: Amount = 0


class BudgetShortage(Frozen, frozen=True, kw_only=True):
    """A bound with nothing left: of the run, or of a task (this one, or one above it) with all below it (`tree`). `spent` is that of
    all attempts in it, reserved slices among it."""

    scope: Literal["tree", "run"]
    scope_id: str
    key: str
    """Of the run or the task."""
    bound: Bound
    spent: int
    limit: int


class BudgetGrant(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """Up to where the attempt may spend, in all; null is not bounded. `shortage`: where there is nothing left."""

    tokens: int | None = None
    cost_micro_usd: int | None = None
    wall_ms: int | None = None
    shortage: BudgetShortage | None = None


class BudgetExtend(Body, frozen=True, kw_only=True):
    """Use an approved permission request of action `extend` whose details name a bound."""

    permission_request_id: str


class BudgetExtended(Frozen, frozen=True, kw_only=True):
    """The bound as it is now; a request that was used before, or that asked about a lower one, changes nothing."""

    bound: AnyBound
    limit: int


class BudgetQuestion(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """The details of a permission request of action `extend`. `scopeId`: a run or a task. `wanted`: how many
    children were to be made."""

    budget: AnyBound
    scope: Literal["task", "tree", "run"]
    scope_id: str
    spent: int
    limit: int
    wanted: int = 0


class BudgetBound(Frozen, frozen=True, kw_only=True):
    """A bound on a task: its own or that of a task above it, with all below (`tree`), or its run's. `left` is what
    may still be spent or made: not what attempts that run have reserved, and never below 0."""

    bound: AnyBound
    scope: Literal["tree", "run"]
    scope_id: str
    key: str
    """Of the run or the task."""
    limit: int
    spent: int
    left: int


class BudgetSpent(Frozen, frozen=True, kw_only=True):
    """What a task and all below it have spent, in all attempts, as far as it was told."""

    tokens: int
    cost_micro_usd: int
    wall_ms: int
    children: int


class BudgetState(Frozen, frozen=True, kw_only=True):
    """How the budgets of a task stand: its own first, its run's last."""

    spent: BudgetSpent
    bounds: list[BudgetBound]
