"""Operations on the budgets that an attempt shares with others."""

from __future__ import annotations

from typing import Final

from flakes.server.operations.act import Act, Handler
from flakes.store import budgets
from flakes.wire.budgets import BudgetExtended, BudgetGrant, BudgetState


async def read(act: Act) -> BudgetState:
    async with act.locked() as (conn, holder, _):
        return await budgets.state(conn, holder)


async def reserve(act: Act) -> BudgetGrant:
    async with act.locked() as (conn, holder, _):
        return await budgets.reserve(conn, holder, act.body)


async def extend(act: Act) -> BudgetExtended:
    async with act.locked() as (conn, holder, ledger):
        return await budgets.extend(conn, ledger, holder, act.body)


HANDLERS: Final[dict[str, Handler]] = {
    "budget.read": read, "budget.reserve": reserve, "budget.extend": extend,
}  # fmt: skip
