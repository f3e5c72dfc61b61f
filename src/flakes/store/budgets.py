"""Budgets that tasks share: slices that attempts reserve, extensions that owners allow, children that are made.

A scope is a run, or a task with everything below it. What is spent in it is what its attempts told, and what
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
from flakes.store.fences import Holder, is_granted
from flakes.store.ledger import Ledger
from flakes.wire.budgets import (
    AnyBound,
    Bound,
    BudgetBound,
    BudgetExtend,
    BudgetExtended,
    BudgetGrant,
    BudgetQuestion,
    BudgetReserve,
    BudgetShortage,
    BudgetSpent,
    BudgetState,
)
from flakes.wire.codec import BodyError, decode, encode
from flakes.wire.errors import ApiError, not_found
from flakes.wire.operations import SPAWN
from flakes.wire.tasks import TaskBudget

BOUNDS: Final[dict[Bound, str]] = {
    "tokens": "tokens", "costMicroUsd": "cost_micro_usd", "wallMs": "wall_ms",
}  # fmt: skip
"""Their names in structs and tables."""
ALL_BOUNDS: Final[dict[AnyBound, str]] = {**BOUNDS, "children": "children"}

_RELEASE = Query("""
    delete from budget_reservations b using assignments a
    where b.run_id = %(run_id)s and a.assignment_id = b.assignment_id and not a.live""")

# The tasks above one, nearest first, and the run last; those that bound something. The task itself where `own`.
_SCOPES = Query("""
    with recursive up as (
        select task_id, task_key, parent_task_id, 0 as distance from tasks where task_id = %(task_id)s
        union all
        select t.task_id, t.task_key, t.parent_task_id, up.distance + 1
        from up join tasks t on t.task_id = up.parent_task_id
    )
    select 'tree', up.task_id, up.task_key, p.definition -> 'budget', up.distance
    from up join task_payloads p on p.task_id = up.task_id
    where json_typeof(p.definition -> 'budget') = 'object' and (up.distance > 0 or %(own)s)
    union all
    select 'run', run_id, run_key, budget, 1000000 from runs
    where run_id = %(run_id)s and json_typeof(budget) = 'object'
    order by 5""")

_SCOPE = Query("""
    select t.task_id, p.definition -> 'budget'
    from tasks t join task_payloads p on p.task_id = t.task_id
    where t.run_id = %(run_id)s and t.task_id = %(scope_id)s
    union all
    select run_id, budget from runs where run_id = %(run_id)s and run_id = %(scope_id)s""")

_ADDED = Query("""
    select scope_id, bound, sum(amount)::bigint from budget_extensions
    where scope_id = any(%(scope_ids)s) group by scope_id, bound""")

_BELOW = """
    with recursive below as (
        select task_id from tasks where task_id = %(scope_id)s
        union all
        select t.task_id from below join tasks t on t.parent_task_id = below.task_id
    )"""

_USED = """
    select coalesce(sum(tokens), 0)::bigint, coalesce(sum(cost), 0)::bigint, coalesce(sum(wall), 0)::bigint,
           coalesce(sum(told_tokens), 0)::bigint, coalesce(sum(told_cost), 0)::bigint,
           coalesce(sum(told_wall), 0)::bigint
    from (
        select greatest(coalesce(u.input_total + u.output, 0), coalesce(b.tokens, 0)) as tokens,
               greatest(coalesce(u.cost_micro_usd, 0), coalesce(b.cost_micro_usd, 0)) as cost,
               greatest(coalesce(u.worked_ms, 0), coalesce(b.wall_ms, 0)) as wall,
               u.input_total + u.output as told_tokens, u.cost_micro_usd as told_cost, u.worked_ms as told_wall
        from (select * from attempt_usage where {where}) u
        full join (select * from budget_reservations where {where}) b using (assignment_id)
        where coalesce(u.assignment_id, b.assignment_id) <> %(assignment_id)s
    ) each"""

_OTHERS_OF_RUN = Query(_USED.format(where="run_id = %(scope_id)s"))
_OTHERS_BELOW = Query(
    _BELOW + _USED.format(where="task_id in (select task_id from below)")
)

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

_SPAWNED_IN_RUN = Query("""
    select count(*) from tasks where run_id = %(scope_id)s and parent_task_id is not null""")
_SPAWNED_BELOW = Query(f"{_BELOW} select count(*) - 1 from below")


@dataclass(frozen=True, slots=True)
class Scope:
    """A run or a task, and what it bounds."""

    kind: Literal["tree", "run"]
    scope_id: str
    key: str
    budget: TaskBudget


async def reserve(conn: Connection, holder: Holder, body: BudgetReserve) -> BudgetGrant:
    """The next slices of an attempt. The caller holds the lock of the run."""
    own = await is_granted(conn, holder.task_id, SPAWN)
    found = await _scopes(conn, holder.run_id, holder.task_id, own=own)
    if not found:
        return BudgetGrant()
    await run(conn, _RELEASE, {"run_id": holder.run_id})
    added = await extensions(conn, [scope.scope_id for scope in found])
    granted: dict[str, int] = {}
    shortage: BudgetShortage | None = None
    for scope in found:
        others = await _used(conn, scope, holder.assignment_id)
        for (bound, name), other in zip(BOUNDS.items(), others[:3], strict=True):
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
    if first is None or not await _concerns(conn, holder, asked.scope_id):
        raise not_found("budget")
    limit = first + (await extensions(conn, [asked.scope_id])).get((asked.scope_id, asked.budget), 0)
    used = await row(conn, _USED_BEFORE, key)
    if used is None and limit <= asked.limit:
        more = max(budget.extended(limit, asked.spent, first), asked.spent + asked.wanted) - limit
        params = {"run_id": holder.run_id, "scope_id": asked.scope_id, "bound": asked.budget, "amount": more}
        await run(conn, _EXTEND, key | params)
        limit += more
        data = {
            "scope": asked.scope, "scopeId": asked.scope_id, "budget": asked.budget, "limit": limit,
            "permissionRequestId": body.permission_request_id,
        }  # fmt: skip
        ledger.event(holder.run_id, "budget.extended", holder.task_id, data)
    return BudgetExtended(bound=asked.budget, limit=limit)


async def state(conn: Connection, holder: Holder) -> BudgetState:
    """How all budgets stand that bound the task."""
    await run(conn, _RELEASE, {"run_id": holder.run_id})
    found = await _scopes(conn, holder.run_id, holder.task_id, own=True)
    added = await extensions(conn, [scope.scope_id for scope in found])
    bounds: list[BudgetBound] = []
    for scope in found:
        used = await _used(conn, scope, "")
        made = await _made(conn, scope)
        for (bound, name), taken, spent in zip(
            ALL_BOUNDS.items(), (*used[:3], made), (*used[3:], made), strict=True
        ):
            first = getattr(scope.budget, name)
            if first is None:
                continue
            limit = first + added.get((scope.scope_id, bound), 0)
            bounds.append(BudgetBound(
                bound=bound, scope=scope.kind, scope_id=scope.scope_id, key=scope.key, limit=limit,
                spent=spent, left=max(0, limit - taken),
            ))  # fmt: skip
    whole = Scope("tree", holder.task_id, holder.task_key, TaskBudget())
    tokens, cost, wall = (await _used(conn, whole, ""))[3:]
    own = BudgetSpent(
        tokens=tokens, cost_micro_usd=cost, wall_ms=wall, children=await _made(conn, whole)
    )
    return BudgetState(spent=own, bounds=bounds)


async def extensions(
    conn: Connection, scope_ids: Sequence[str]
) -> dict[tuple[str, AnyBound], int]:
    """What was added to the bounds of these runs and tasks, by scope and bound."""
    found = await rows(conn, _ADDED, {"scope_ids": list(scope_ids)})
    return {(scope_id, bound): amount for scope_id, bound, amount in found}


async def check_children(conn: Connection, run_id: str, parent_id: str, count: int) -> None:
    """Whether a task may make `count` more children: what it, each task above it and the run allow of all that
    is below them. The caller holds the lock of the run; 409 `budget_exhausted`, whose details are a
    `BudgetQuestion`."""
    scopes = await _scopes(conn, run_id, parent_id, own=True)
    added = await extensions(conn, [scope.scope_id for scope in scopes])
    for scope in scopes:
        if scope.budget.children is None:
            continue
        limit = scope.budget.children + added.get((scope.scope_id, "children"), 0)
        made = await _made(conn, scope)
        if made + count > limit:
            raise ApiError(
                "budget_exhausted", f"the {'run' if scope.kind == 'run' else 'task'} {scope.key} has made {made:,} of the {limit:,} children that its budget allows, and wants {count:,} more",
                "make fewer, or give it a larger `budget`", budget="children", scope=scope.kind,
                scopeId=scope.scope_id, spent=made, limit=limit, wanted=count,
            )  # fmt: skip


async def _scopes(conn: Connection, run_id: str, task_id: str, *, own: bool) -> list[Scope]:
    found = await rows(conn, _SCOPES, {"run_id": run_id, "task_id": task_id, "own": own})
    return [Scope(kind, scope_id, key, _decoded(value)) for kind, scope_id, key, value, _ in found]


async def _used(conn: Connection, scope: Scope, assignment_id: str) -> tuple[int, ...]:
    """Tokens, money and time that attempts other than this one have spent or reserved; then what they have spent."""
    query = _OTHERS_OF_RUN if scope.kind == "run" else _OTHERS_BELOW
    found = await row(conn, query, {"scope_id": scope.scope_id, "assignment_id": assignment_id})
    assert found is not None
    return found


async def _made(conn: Connection, scope: Scope) -> int:
    """Children that were made in it, and theirs."""
    query = _SPAWNED_IN_RUN if scope.kind == "run" else _SPAWNED_BELOW
    found = await row(conn, query, {"scope_id": scope.scope_id})
    return found[0] if found else 0


async def _concerns(conn: Connection, holder: Holder, scope_id: str) -> bool:
    """Whether the scope is the attempt's own task, one above it, or its run."""
    found = await _scopes(conn, holder.run_id, holder.task_id, own=True)
    return scope_id in {scope.scope_id for scope in found}


def _budget(stored: Any, bound: AnyBound) -> int | None:
    return getattr(_decoded(stored), ALL_BOUNDS[bound])


def _decoded(stored: Any) -> TaskBudget:
    return msgspec.convert(stored, TaskBudget)
