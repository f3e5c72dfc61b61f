"""Offers to sandboxes, with everything a sandbox needs to start: definition, inputs, names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from flakes.store import assigned_workspaces, budgets, input_artifacts, own_workspaces, transcripts
from flakes.store.database import Connection, Query, row, rows
from flakes.wire.operations import SPAWN
from flakes.wire.sandbox_stream import Assignment, InputOutput
from flakes.wire.tasks import Output, TaskDefinition
from flakes.wire.waits import Happened

_COLUMNS = """
    select a.assignment_id, a.sandbox_id, a.task_id, t.task_key, a.run_id, r.run_key, j.project_key,
           a.attempt, r.metadata::text, p.definition::text,
           r.workspace_id is not null, r.has_workspaces,
           r.budget is not null or t.parent_task_id is not null, t.wait_count
    from assignments a
    join tasks t on t.task_id = a.task_id
    join task_payloads p on p.task_id = a.task_id
    join runs r on r.run_id = a.run_id
    join projects j on j.project_id = r.project_id"""

BY_ID = Query(f"{_COLUMNS} where a.assignment_id = any(%(assignment_ids)s) and a.live")

_INPUTS = Query("""
    select d.task_id, s.task_key, o.key, o.value
    from task_dependencies d
    join tasks s on s.task_id = d.depends_on
    join task_results k on k.task_id = d.depends_on
    cross join lateral json_each(k.result -> 'outputs') o
    where d.task_id = any(%(task_ids)s) and json_typeof(k.result -> 'outputs') = 'object'""")

_NAMES_INPUT = Query("""
    select 1 from assignments a
    join task_dependencies d on d.task_id = a.task_id
    join task_results k on k.task_id = d.depends_on
    cross join lateral json_each(k.result -> 'outputs') o
    where a.sandbox_id = %(sandbox_id)s and a.live
      and json_typeof(k.result -> 'outputs') = 'object' and o.value ->> 'digest' = %(digest)s
    limit 1""")

_LIVE = Query("""
    select a.assignment_id, a.state, t.cancel_requested_at is not null, t.cancel_reason
    from assignments a join tasks t on t.task_id = a.task_id
    where a.sandbox_id = %(sandbox_id)s and a.live""")

_OPEN_OFFERS = Query("""
    select sandbox_id, assignment_id from assignments
    where sandbox_id = any(%(sandbox_ids)s) and live and state = 'offered'""")

_CANCELLED = Query("""
    select a.sandbox_id, a.assignment_id, coalesce(t.cancel_reason, 'cancelled')
    from assignments a join tasks t on t.task_id = a.task_id
    where a.sandbox_id = any(%(sandbox_ids)s) and a.live and a.state = 'accepted'
      and t.cancel_requested_at is not null""")

_HAPPENED = Query("""
    select w.task_id, w.operation_id, w.kind, w.state, w.outcome ->> 'verdict',
           coalesce(g.group_key, w.signal_name)
    from waits w left join task_groups g on g.group_id = w.group_id
    where w.task_id = any(%(task_ids)s) and w.state <> 'pending' and w.yields_for is not null
    order by w.settled_at""")

_definition = msgspec.json.Decoder(TaskDefinition)
_metadata = msgspec.json.Decoder(dict[str, Any])


async def load(
    conn: Connection, assignment_ids: Sequence[str]
) -> list[tuple[str, Assignment]]:
    """(sandbox id, assignment) for those that are still live, oldest first."""
    return await complete(conn, await rows(conn, BY_ID, {"assignment_ids": list(assignment_ids)}))


async def complete(
    conn: Connection, found: Sequence[tuple[Any, ...]]
) -> list[tuple[str, Assignment]]:
    """Make assignments of rows of `BY_ID`, with the outputs of their dependencies and the artifacts that
    they name as inputs."""
    decoded = [(offer, _definition.decode(offer[9])) for offer in sorted(found)]
    dependent = [offer[2] for offer, definition in decoded if definition.depends_on]
    inputs: defaultdict[str, list[InputOutput]] = defaultdict(list)
    if dependent:
        for task_id, task_key, output_key, value in await rows(
            conn, _INPUTS, {"task_ids": dependent}
        ):
            output = msgspec.convert(value, Output)
            inputs[task_id].append(
                InputOutput(task_key=task_key, output_key=output_key, output=output)
            )
    naming = [offer[2] for offer, definition in decoded if definition.input_artifacts]
    artifacts = await input_artifacts.of_tasks(conn, naming) if naming else {}
    bounded = [offer[2] for offer, definition in decoded if definition.budget and offer[7] > 1]
    spent = await transcripts.of_tasks(conn, bounded) if bounded else {}
    given = await assigned_workspaces.of_tasks(conn, [
        assigned_workspaces.Asking(offer[2], offer[4], definition, offer[11])
        for offer, definition in decoded
        if offer[10] or offer[11] or definition.workspace_inputs
    ])  # fmt: skip
    changed = [offer[2] for offer, _ in decoded if offer[11]]
    own = await own_workspaces.of_tasks(conn, changed) if changed else {}
    added: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (task_id, bound), amount in (await budgets.extensions(conn, bounded) if bounded else {}).items():
        added[task_id][bound] = amount
    yielded = [offer[2] for offer, _ in decoded if offer[13]]
    happened = await _happened(conn, yielded) if yielded else {}
    return [
        (
            offer[1],
            Assignment(
                assignment_id=offer[0], task_id=offer[2], task_key=offer[3], run_id=offer[4],
                run_key=offer[5], project_key=offer[6], attempt=offer[7],
                run_metadata=_metadata.decode(offer[8]) if offer[8] != "{}" else {},
                definition=definition, inputs=inputs.get(offer[2], []),
                artifacts=artifacts.get(offer[2], []), spent=spent.get(offer[2]),
                workspace=given[offer[2]].workspace if offer[2] in given else None,
                workspace_inputs=given[offer[2]].inputs if offer[2] in given else {},
                own_workspaces=own.get(offer[2], []),
                extended=added.get(offer[2], {}),
                shares_budgets=offer[12] or (definition.budget is not None and SPAWN in definition.tool_grants),
                happened=happened.get(offer[2], []),
            ),
        )
        for offer, definition in decoded
    ]  # fmt: skip


async def _happened(conn: Connection, task_ids: Sequence[str]) -> dict[str, list[Happened]]:
    """What tasks that go on had yielded for."""
    found: defaultdict[str, list[Happened]] = defaultdict(list)
    for task_id, operation_id, kind, state, verdict, name in await rows(
        conn, _HAPPENED, {"task_ids": list(task_ids)}
    ):
        found[task_id].append(Happened(
            operation_id=operation_id, kind=kind, state=state, verdict=verdict, name=name,
        ))  # fmt: skip
    return found


async def live_of(conn: Connection, sandbox_id: str) -> list[tuple[str, str, bool, str | None]]:
    """(assignment id, state, cancel requested, reason) of everything a sandbox holds."""
    return await rows(conn, _LIVE, {"sandbox_id": sandbox_id})


async def open_of(conn: Connection, sandbox_ids: Sequence[str]) -> list[tuple[str, str]]:
    """(sandbox id, assignment id) of offers to these sandboxes that nobody has accepted yet."""
    return await rows(conn, _OPEN_OFFERS, {"sandbox_ids": list(sandbox_ids)})


async def cancelled_of(
    conn: Connection, sandbox_ids: Sequence[str]
) -> list[tuple[str, str, str]]:
    """(sandbox id, assignment id, reason) of accepted work that somebody asked to stop."""
    return await rows(conn, _CANCELLED, {"sandbox_ids": list(sandbox_ids)})


async def names_input(conn: Connection, sandbox_id: str, digest: str) -> bool:
    """Whether a live offer of this sandbox has an input of this digest."""
    params = {"sandbox_id": sandbox_id, "digest": digest}
    if await row(conn, _NAMES_INPUT, params) is not None:
        return True
    return await input_artifacts.named(conn, sandbox_id, digest)
