"""Budgets that tasks share: slices that attempts reserve, and extensions that owners allow.

A scope is a run. What is spent in it is what its attempts told, and what
those that run have reserved beyond that. Everything here is done under the lock of the run, so two attempts
never reserve the same rest; that an attempt has ended releases what it did not spend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from flakes.core import budget
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.fences import Holder
from flakes.store.ledger import Ledger
from flakes.wire.budgets import (
    Bound,
    BudgetExtend,
    BudgetExtended,
    BudgetGrant,
    BudgetQuestion,
    BudgetReserve,
    BudgetShortage,
)
from flakes.wire.codec import BodyError, decode, encode
from flakes.wire.errors import ApiError, not_found
from flakes.wire.tasks import TaskBudget

BOUNDS: Final[dict[Bound, str]] = {
    "tokens": "tokens", "costMicroUsd": "cost_micro_usd", "wallMs": "wall_ms",
}  # fmt: skip
"""Their names in structs and tables."""

_RELEASE = Query("""
    delete from budget_reservations b using assignments a
    where b.run_id = %(run_id)s and a.assignment_id = b.assignment_id and not a.live""")

_SCOPES = Query("""
    select 'run', run_id, run_key, budget from runs
    where run_id = %(run_id)s and json_typeof(budget) = 'object'""")

_SCOPE = Query("""
    select t.task_id, p.definition -> 'budget'
    from tasks t join task_payloads p on p.task_id = t.task_id
    where t.run_id = %(run_id)s and t.task_id = %(scope_id)s
    union all
    select run_id, budget from runs where run_id = %(run_id)s and run_id = %(scope_id)s""")

_ADDED = Query("""
    select scope_id, bound, sum(amount)::bigint from budget_extensions
    where scope_id = any(%(scope_ids)s) group by scope_id, bound""")

_USED = """
    select coalesce(sum(tokens), 0)::bigint, coalesce(sum(cost), 0)::bigint, coalesce(sum(wall), 0)::bigint
    from (
        select greatest(coalesce(u.input_total + u.output, 0), coalesce(b.tokens, 0)) as tokens,
               greatest(coalesce(u.cost_micro_usd, 0), coalesce(b.cost_micro_usd, 0)) as cost,
               greatest(coalesce(u.worked_ms, 0), coalesce(b.wall_ms, 0)) as wall
        from (select * from attempt_usage where {where}) u
        full join (select * from budget_reservations where {where}) b using (assignment_id)
        where coalesce(u.assignment_id, b.assignment_id) <> %(assignment_id)s
    ) each"""

_OTHERS_OF_RUN = Query(_USED.format(where="run_id = %(scope_id)s"))

_RESERVE = Query("""
    insert into budget_reservations (assignment_id, task_id, run_id, tokens, cost_micro_usd, wall_ms)
    values (%(assignment_id)s, %(task_id)s, %(run_id)s, %(tokens)s, %(cost_micro_usd)s, %(wall_ms)s)
    on conflict (assignment_id) do update set
        tokens = excluded.tokens, cost_micro_usd = excluded.cost_micro_usd, wall_ms = excluded.wall_ms""")

_APPROVED = Query("""
    select details from permissions
    where permission_id = %(permission_id)s and assignment_id = %(assignment_id)s
      and action = 'extend' and status = 'approved'""")

_USED_BEFORE = Query("select 1 from budget_extensions where permission_id = %(permission_id)s")

_EXTEND = Query("""
    insert into budget_extensions (permission_id, run_id, scope_id, bound, amount)
    values (%(permission_id)s, %(run_id)s, %(scope_id)s, %(bound)s, %(amount)s)""")


@dataclass(frozen=True, slots=True)
class Scope:
    """A run, and what it bounds."""

    kind: Literal["tree", "run"]
    scope_id: str
    key: str
    budget: TaskBudget


async def reserve(conn: Connection, holder: Holder, body: BudgetReserve) -> BudgetGrant:
    """The next slices of an attempt. The caller holds the lock of the run."""
    found = await _scopes(conn, holder.run_id)
    if not found:
        return BudgetGrant()
    await run(conn, _RELEASE, {"run_id": holder.run_id})
    added = await extensions(conn, [scope.scope_id for scope in found])
    granted: dict[str, int] = {}
    shortage: BudgetShortage | None = None
    for scope in found:
        others = await _others(conn, scope, holder.assignment_id)
        for (bound, name), other in zip(BOUNDS.items(), others, strict=True):
            first = getattr(scope.budget, name)
            if first is None:
                continue
            limit = first + added.get((scope.scope_id, bound), 0)
            spent = getattr(body, name)
            upto = budget.slice_of(limit, other, spent)
            if upto is None and shortage is None:
                shortage = BudgetShortage(
                    scope=scope.kind, scope_id=scope.scope_id, key=scope.key, bound=bound,
                    spent=other + spent, limit=limit,
                )  # fmt: skip
            granted[name] = min(granted.get(name, 1 << 62), spent if upto is None else upto)
    holds = {name: granted.get(name, getattr(body, name)) for name in BOUNDS.values()}
    key = {"assignment_id": holder.assignment_id, "task_id": holder.task_id, "run_id": holder.run_id}
    await run(conn, _RESERVE, key | holds)
    return BudgetGrant(**granted, shortage=shortage)


async def extend(
    conn: Connection, ledger: Ledger, holder: Holder, body: BudgetExtend
) -> BudgetExtended:
    """Use an approved request. The caller holds the lock of the run and flushes; 404 without one."""
    key = {"permission_id": body.permission_request_id, "assignment_id": holder.assignment_id}
    approved = await row(conn, _APPROVED, key)
    if approved is None:
        raise not_found("permission")
    try:
        asked = decode(encode(approved[0]), BudgetQuestion)
    except BodyError as error:
        raise ApiError("invalid_request", f"the request did not ask for more of a budget: {error}", "ask with the budget's details") from error
    scope = await row(conn, _SCOPE, {"run_id": holder.run_id, "scope_id": asked.scope_id})
    first = None if scope is None or scope[1] is None else _budget(scope[1], asked.budget)
    if first is None or asked.scope_id not in (holder.task_id, holder.run_id):
        raise not_found("budget")
    limit = first + (await extensions(conn, [asked.scope_id])).get((asked.scope_id, asked.budget), 0)
    used = await row(conn, _USED_BEFORE, key)
    if used is None and limit <= asked.limit:
        more = budget.extended(limit, asked.spent, first) - limit
        params = {"run_id": holder.run_id, "scope_id": asked.scope_id, "bound": asked.budget, "amount": more}
        await run(conn, _EXTEND, key | params)
        limit += more
        data = {
            "scope": asked.scope, "scopeId": asked.scope_id, "budget": asked.budget, "limit": limit,
            "permissionRequestId": body.permission_request_id,
        }  # fmt: skip
        ledger.event(holder.run_id, "budget.extended", holder.task_id, data)
    return BudgetExtended(bound=asked.budget, limit=limit)


async def extensions(conn: Connection, scope_ids: Sequence[str]) -> dict[tuple[str, Bound], int]:
    """What was added to the bounds of these runs and tasks, by scope and bound."""
    found = await rows(conn, _ADDED, {"scope_ids": list(scope_ids)})
    return {(scope_id, bound): amount for scope_id, bound, amount in found}


async def _scopes(conn: Connection, run_id: str) -> list[Scope]:
    found = await rows(conn, _SCOPES, {"run_id": run_id})
    return [Scope(kind, scope_id, key, _decoded(value)) for kind, scope_id, key, value in found]


async def _others(conn: Connection, scope: Scope, assignment_id: str) -> tuple[int, int, int]:
    params = {"scope_id": scope.scope_id, "assignment_id": assignment_id}
    found = await row(conn, _OTHERS_OF_RUN, params)
    assert found is not None
    return found[0], found[1], found[2]


def _budget(stored: Any, bound: Bound) -> int | None:
    return getattr(_decoded(stored), BOUNDS[bound])


def _decoded(stored: Any) -> TaskBudget:
    return msgspec.convert(stored, TaskBudget)
