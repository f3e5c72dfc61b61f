"""Saving and admitting tasks: one by one, or a whole graph in one transaction.

A saved task may be saved again; admission makes it immutable and schedulable. Everything is refused whole:
an unknown dependency, a cycle, or a dependency that is not admitted leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from flakes.core.task import TaskStatus
from flakes.store import assigned_workspaces, input_artifacts, joins, runs, settlement
from flakes.store.classes import class_ids
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.definitions import check_definition, check_graph
from flakes.store.identifiers import new_id
from flakes.store.ledger import Ledger
from flakes.wire.codec import encode
from flakes.wire.errors import ApiError
from flakes.wire.runs import GraphPost
from flakes.wire.tasks import TaskDefinition

_INSERT_TASKS = Query("""
    insert into tasks (task_id, run_id, task_key, class_id, title, adapter, status, optional, priority,
                       failure_policy, attempts_max, backoff_s, backoff_s_max, pending_count,
                       admitted_at, queued_at, parent_task_id, root_task_id, group_id, depth, detached)
    select u.task_id, %(run_id)s, u.task_key, u.class_id, u.title, u.adapter, u.status, u.optional,
           u.priority, u.failure_policy, u.attempts_max, u.backoff_s, u.backoff_s_max,
           u.pending_count, case when u.status <> 'SAVED' then now() end,
           case when u.status = 'QUEUED' then now() end,
           %(parent_id)s, %(root_id)s, %(group_id)s, %(depth)s, %(detached)s
    from unnest(%(task_ids)s::text[], %(keys)s::text[], %(class_ids)s::integer[], %(titles)s::text[],
                %(adapters)s::text[], %(optional)s::boolean[], %(priorities)s::integer[],
                %(policies)s::text[], %(attempts_max)s::smallint[], %(backoffs)s::real[],
                %(backoffs_max)s::real[], %(statuses)s::text[], %(pending)s::integer[])
        as u(task_id, task_key, class_id, title, adapter, optional, priority, failure_policy,
             attempts_max, backoff_s, backoff_s_max, status, pending_count)""")

_QUEUE = Query("""
    insert into ready_tasks (task_id, class_id, run_id, priority, queued_at)
    select u.task_id, u.class_id, %(run_id)s, u.priority, now()
    from unnest(%(task_ids)s::text[], %(class_ids)s::integer[], %(priorities)s::integer[])
        as u(task_id, class_id, priority)""")

_UPDATE_TASK = Query("""
    update tasks set class_id = %(class_id)s, title = %(title)s, adapter = %(adapter)s,
        optional = %(optional)s, priority = %(priority)s, failure_policy = %(policy)s,
        attempts_max = %(attempts_max)s, backoff_s = %(backoff_s)s, backoff_s_max = %(backoff_s_max)s
    where task_id = %(task_id)s""")

_WRITE_PAYLOADS = Query("""
    insert into task_payloads (task_id, definition)
    select * from unnest(%(task_ids)s::text[], %(definitions)s::json[])
    on conflict (task_id) do update set definition = excluded.definition""")

_INSERT_DEPENDENCIES = Query("""
    insert into task_dependencies (depends_on, task_id)
    select * from unnest(%(depends_on)s::text[], %(task_ids)s::text[])
    on conflict do nothing""")

_FIND_TASK = Query("""
    select t.task_id, t.status, t.optional, p.definition::text
    from tasks t join task_payloads p using (task_id)
    where t.run_id = %(run_id)s and t.task_key = %(key)s""")

_TASK_KEYS = Query("select task_key, task_id, status from tasks where run_id = %(run_id)s")

_SAVED = Query("""
    select t.task_id, t.task_key, t.optional, p.definition
    from tasks t join task_payloads p using (task_id)
    where t.run_id = %(run_id)s and t.status = 'SAVED'
      and (%(keys)s::text[] is null or t.task_key = any(%(keys)s))""")

_ADMIT = Query("""
    with u as (
        select * from unnest(%(task_ids)s::text[], %(pending)s::integer[]) as u(task_id, pending_count)
    ), moved as (
        update tasks t
        set status = case when u.pending_count = 0 then 'QUEUED' else 'BLOCKED' end,
            pending_count = u.pending_count, admitted_at = now(),
            queued_at = case when u.pending_count = 0 then now() end
        from u where t.task_id = u.task_id
        returning t.task_id, t.class_id, t.run_id, t.priority, t.pending_count
    )
    insert into ready_tasks (task_id, class_id, run_id, priority, queued_at)
    select task_id, class_id, run_id, priority, now() from moved where pending_count = 0""")

_GRAPH_SEEN = Query("""
    insert into run_graphs (run_id, digest) values (%(run_id)s, %(digest)s) on conflict do nothing""")

@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a task comes from; nothing of it for a task of the graph."""

    parent_id: str | None = None
    root_id: str | None = None
    group_id: str | None = None
    depth: int = 0
    detached: bool = False


_OF_THE_GRAPH = Lineage()

Saved = Sequence[tuple[str, str, TaskDefinition]]
"""(task id, task key, definition) of tasks to write or admit."""


async def save(
    conn: Connection, owner_id: str, run_reference: str, key: str, definition: TaskDefinition
) -> tuple[str, bool]:
    """Save a task before admission; its id, and whether it is new. 409 `task_admitted` after."""
    check_definition(key, definition)
    run_id = await runs.resolve(conn, owner_id, run_reference)
    ledger = await Ledger.lock(conn, [run_id])
    found = await row(conn, _FIND_TASK, {"run_id": run_id, "key": key})
    if found is not None and found[1] != TaskStatus.SAVED:
        if msgspec.json.decode(found[3], type=TaskDefinition) == _stored(key, definition):
            return found[0], False
        raise ApiError("task_admitted", f"task {key!r} is admitted and immutable", "save another task under another key")
    runs.require_open(ledger, run_id)
    await input_artifacts.check(conn, owner_id, [(key, definition)])
    await assigned_workspaces.check(conn, owner_id, [(key, definition)])
    project_id = ledger.runs[run_id].project_id
    if found is None:
        task_id = new_id("task")
        await _insert(conn, ledger, owner_id, run_id, [(task_id, key, definition)])
    else:
        task_id = found[0]
        shape = (definition.adapter, tuple(sorted(set(definition.required_capabilities))))
        ids = await class_ids(conn, owner_id, project_id, [shape])
        await run(conn, _UPDATE_TASK, {
            "task_id": task_id, "class_id": ids[shape], "title": definition.title,
            "adapter": definition.adapter, "optional": definition.optional,
            "priority": definition.priority, "policy": definition.dependency_failure_policy,
            "attempts_max": definition.retry.max_attempts, "backoff_s": definition.retry.backoff_s,
            "backoff_s_max": definition.retry.max_backoff_s,
        })  # fmt: skip
        text = encode(_stored(key, definition)).decode()
        await run(conn, _WRITE_PAYLOADS, {"task_ids": [task_id], "definitions": [text]})
        if found[2] != definition.optional:
            ledger.move(run_id, TaskStatus.SAVED, None, optional=found[2])
            ledger.move(run_id, None, TaskStatus.SAVED, optional=definition.optional)
    ledger.event(run_id, "task.saved", task_id, {"taskKey": key})
    await ledger.flush(conn)
    return task_id, found is None


async def admit(
    conn: Connection, owner_id: str, run_reference: str, keys: Collection[str] | None
) -> tuple[str, list[str], int]:
    """Admit saved tasks (None: all of them): run id, ids admitted, and how many became ready."""
    run_id = await runs.resolve(conn, owner_id, run_reference)
    ledger = await Ledger.lock(conn, [run_id])
    wanted = None if keys is None else sorted(set(keys))
    saved = [
        (task_id, key, msgspec.convert(definition, TaskDefinition))
        for task_id, key, _, definition in await rows(conn, _SAVED, {"run_id": run_id, "keys": wanted})
    ]
    if wanted is not None and len(saved) < len(wanted):
        known = {r[0]: r[2] for r in await rows(conn, _TASK_KEYS, {"run_id": run_id})}
        unknown = [key for key in wanted if key not in known]
        if unknown:
            raise ApiError("graph_invalid", f"no saved task {unknown[0]!r} in this run", "save it first", taskKeys=unknown)
    if not saved:
        return run_id, [], 0
    runs.require_open(ledger, run_id)
    await input_artifacts.check(conn, owner_id, [(key, d) for _, key, d in saved])
    await assigned_workspaces.check(conn, owner_id, [(key, d) for _, key, d in saved])
    plan = await _plan(conn, run_id, saved)
    await run(conn, _ADMIT, {"task_ids": [s[0] for s in saved], "pending": plan.pending})
    for (_, _, definition), waits in zip(saved, plan.pending, strict=True):
        status = TaskStatus.BLOCKED if waits else TaskStatus.QUEUED
        ledger.move(run_id, TaskStatus.SAVED, status, optional=definition.optional)
    ready = await _enter(conn, ledger, run_id, saved, plan)
    await joins.settle(conn, ledger)
    await ledger.flush(conn)
    return run_id, [task_id for task_id, _, _ in saved], ready + ledger.ready


async def append(
    conn: Connection, owner_id: str, ledger: Ledger, run_id: str, saved: Saved, lineage: Lineage
) -> int:
    """Write and admit children of a task; how many are ready. The caller has checked the definitions, holds
    the lock of the run, settles joins, and flushes."""
    plan = await _plan(conn, run_id, saved)
    await _insert(conn, ledger, owner_id, run_id, saved, plan, lineage)
    return await _enter(conn, ledger, run_id, saved, plan)


async def graph(
    conn: Connection, owner_id: str, run_key: str, body: GraphPost
) -> tuple[str, int, bool]:
    """A run, its tasks and their admission at once: run id, tasks that became ready, and False when this
    body had been taken before (a replay changes nothing)."""
    definitions = [(_key_of(index, d), d) for index, d in enumerate(body.tasks)]
    for key, definition in definitions:
        check_definition(key, definition)
    run_id, created = await runs.ensure(conn, owner_id, run_key, body)
    ledger = await Ledger.lock(conn, [run_id])
    if created:
        ledger.event(run_id, "run.created", data={"runKey": run_key, "name": body.name})
    if not await run(conn, _GRAPH_SEEN, {"run_id": run_id, "digest": runs.digest_of(body)}):
        return run_id, 0, False
    runs.require_open(ledger, run_id)
    existing = {} if created else {
        key: task_id for key, task_id, _ in await rows(conn, _TASK_KEYS, {"run_id": run_id})
    }  # fmt: skip
    taken = [key for key, _ in definitions if key in existing]
    if taken:
        raise ApiError("run_conflict", f"run {run_key!r} already has a task {taken[0]!r}", "give the new tasks other keys", taskKeys=taken[:50])
    await input_artifacts.check(conn, owner_id, definitions)
    await assigned_workspaces.check(conn, owner_id, definitions)
    saved = [(new_id("task"), key, definition) for key, definition in definitions]
    plan = await _plan(conn, run_id, saved)
    await _insert(conn, ledger, owner_id, run_id, saved, plan)
    ready = await _enter(conn, ledger, run_id, saved, plan)
    if body.close:
        await runs.close_locked(conn, ledger, run_id)
    await joins.settle(conn, ledger)
    await ledger.flush(conn)
    return run_id, ready, True


async def add(
    conn: Connection, ledger: Ledger, owner_id: str, run_id: str, key: str, definition: TaskDefinition
) -> str:
    """Add a task of the control plane's own to a locked run, closed or not, ready to be placed; its id. A key
    that is taken gets a number."""
    taken = {found[0] for found in await rows(conn, _TASK_KEYS, {"run_id": run_id})}
    number = 2
    free = key
    while free in taken:
        free, number = f"{key}-{number}", number + 1
    saved = [(new_id("task"), free, definition)]
    plan = _Plan([0], [], set())
    await _insert(conn, ledger, owner_id, run_id, saved, plan)
    await _enter(conn, ledger, run_id, saved, plan)
    return saved[0][0]


def _key_of(index: int, definition: TaskDefinition) -> str:
    if definition.task_key is None:
        raise ApiError("invalid_request", f"tasks[{index}] has no taskKey", "give every task of a graph a key", path=f"tasks[{index}].taskKey")
    return definition.task_key


def _stored(key: str, definition: TaskDefinition) -> TaskDefinition:
    """The form that is kept: always with its key."""
    return definition if definition.task_key else msgspec.structs.replace(definition, task_key=key)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How tasks enter the graph: what each still waits for, and the edges to write."""

    pending: list[int]
    """Per task, how many dependencies hold it back; 0 means ready."""
    edges: list[tuple[str, str]]
    """(depends on, task) by id."""
    ended_badly: set[str]
    """Dependencies that had already failed or been cancelled."""


async def _plan(conn: Connection, run_id: str, saved: Saved) -> _Plan:
    """Check the shape of the graph that these tasks make, with what the run has; refuse it whole."""
    keys = {key: task_id for task_id, key, _ in saved}
    others: dict[str, tuple[str, TaskStatus]] = {}
    if any(dependency not in keys for _, _, d in saved for dependency in d.depends_on):
        others = {
            key: (task_id, TaskStatus(status))
            for key, task_id, status in await rows(conn, _TASK_KEYS, {"run_id": run_id})
            if key not in keys
        }
    admitted = {key for key, (_, status) in others.items() if status is not TaskStatus.SAVED}
    for _, key, definition in saved:
        for dependency in definition.depends_on:
            if dependency in others and dependency not in admitted:
                raise ApiError("graph_invalid", f"task {key!r} depends on {dependency!r}, which is not admitted", f"admit {dependency!r} too", taskKey=key)
    check_graph([(key, d) for _, key, d in saved], admitted)
    plan = _Plan([], [], set())
    for task_id, _, definition in saved:
        waits = 0
        for dependency in set(definition.depends_on):
            other = others.get(dependency)
            depends_on = keys[dependency] if other is None else other[0]
            plan.edges.append((depends_on, task_id))
            if other is None or not settlement.satisfies(other[1], definition.dependency_failure_policy):
                waits += 1
            if other is not None and other[1] in (TaskStatus.FAILED, TaskStatus.CANCELLED):
                plan.ended_badly.add(depends_on)
        plan.pending.append(waits)
    return plan


async def _insert(
    conn: Connection,
    ledger: Ledger,
    owner_id: str,
    run_id: str,
    saved: Saved,
    plan: _Plan | None = None,
    lineage: Lineage = _OF_THE_GRAPH,
) -> None:
    """Write new tasks: as SAVED, or admitted already where a plan says how."""
    shapes = [(d.adapter, tuple(sorted(set(d.required_capabilities)))) for _, _, d in saved]
    ids = await class_ids(conn, owner_id, ledger.runs[run_id].project_id, shapes)
    if plan is None:
        pending, statuses = [0] * len(saved), [TaskStatus.SAVED] * len(saved)
    else:
        pending = plan.pending
        statuses = [TaskStatus.BLOCKED if waits else TaskStatus.QUEUED for waits in pending]
    task_ids = [task_id for task_id, _, _ in saved]
    await run(conn, _INSERT_TASKS, {
        "run_id": run_id, "task_ids": task_ids, "keys": [key for _, key, _ in saved],
        "class_ids": [ids[shape] for shape in shapes],
        "titles": [d.title for _, _, d in saved],
        "adapters": [d.adapter for _, _, d in saved],
        "optional": [d.optional for _, _, d in saved],
        "priorities": [d.priority for _, _, d in saved],
        "policies": [d.dependency_failure_policy for _, _, d in saved],
        "attempts_max": [d.retry.max_attempts for _, _, d in saved],
        "backoffs": [d.retry.backoff_s for _, _, d in saved],
        "backoffs_max": [d.retry.max_backoff_s for _, _, d in saved],
        "statuses": [str(status) for status in statuses], "pending": pending,
        "parent_id": lineage.parent_id, "root_id": lineage.root_id, "group_id": lineage.group_id,
        "depth": lineage.depth, "detached": lineage.detached,
    })  # fmt: skip
    definitions = [encode(_stored(key, definition)).decode() for _, key, definition in saved]
    await run(conn, _WRITE_PAYLOADS, {"task_ids": task_ids, "definitions": definitions})
    ready = [n for n, status in enumerate(statuses) if status is TaskStatus.QUEUED]
    if ready:
        await run(conn, _QUEUE, {
            "run_id": run_id, "task_ids": [task_ids[n] for n in ready],
            "class_ids": [ids[shapes[n]] for n in ready],
            "priorities": [saved[n][2].priority for n in ready],
        })  # fmt: skip
    for status, (_, _, definition) in zip(statuses, saved, strict=True):
        ledger.move(run_id, None, status, optional=definition.optional)


async def _enter(conn: Connection, ledger: Ledger, run_id: str, saved: Saved, plan: _Plan) -> int:
    """Edges and events of tasks whose rows are admitted; how many are ready."""
    if plan.edges:
        await run(conn, _INSERT_DEPENDENCIES, {
            "depends_on": [e[0] for e in plan.edges], "task_ids": [e[1] for e in plan.edges],
        })  # fmt: skip
    for (task_id, key, _), waits in zip(saved, plan.pending, strict=True):
        status = TaskStatus.BLOCKED if waits else TaskStatus.QUEUED
        ledger.event(run_id, "task.admitted", task_id, {"status": status, "taskKey": key})
    ready = sum(not waits for waits in plan.pending)
    if plan.ended_badly:
        ready += await settlement.after_failure(conn, ledger, plan.ended_badly)
    return ready
