"""Tasks that a running task makes: checked against what it may give, written and admitted at once.

The caller holds the lock of the run and the assignment that spawns, so a child exists only if its parent
still ran (F03), and the same request twice makes one set of children.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from flakes.core import keys, limits
from flakes.core.group import GroupStatus
from flakes.store import admission, budgets, groups, input_artifacts, joins, runs, tasks
from flakes.store.admission import Lineage
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.definitions import check_definition, check_size
from flakes.store.fences import Holder
from flakes.store.identifiers import new_id
from flakes.store.ledger import Ledger
from flakes.wire.errors import ApiError, not_found
from flakes.wire.groups import Child, Children, Spawned, TaskSpawn
from flakes.wire.tasks import TaskDefinition, TaskError

_PARENT = Query("""
    select t.task_key, t.root_task_id, t.depth, t.child_count, p.definition
    from tasks t join task_payloads p on p.task_id = t.task_id where t.task_id = %(task_id)s""")

_KNOWN = Query("""
    select digest, child_ids from task_spawns
    where task_id = %(task_id)s and operation_id = %(operation_id)s""")

_REMEMBER = Query("""
    insert into task_spawns (task_id, operation_id, digest, child_ids)
    values (%(task_id)s, %(operation_id)s, %(digest)s, %(child_ids)s)""")

_TAKEN = Query("select task_key from tasks where run_id = %(run_id)s and task_key = any(%(keys)s)")

_COUNT_CHILDREN = Query("""
    update tasks set child_count = child_count + %(count)s where task_id = %(task_id)s""")

_COUNT_MEMBERS = Query("""
    update task_groups set total = total + %(count)s where group_id = %(group_id)s""")

# The ancestors of the parent, itself among them, that something named would have to wait for.
_WAITED_FOR = Query("""
    with recursive up as (
        select task_id, task_key, parent_task_id from tasks where task_id = %(task_id)s
        union all
        select t.task_id, t.task_key, t.parent_task_id from up join tasks t on t.task_id = up.parent_task_id
    ), behind as (
        select task_id from tasks where run_id = %(run_id)s and task_key = any(%(keys)s)
        union
        select d.depends_on from behind join task_dependencies d on d.task_id = behind.task_id
    )
    select up.task_key from up join behind using (task_id)""")

_COLUMNS = """task_id, task_key, title, adapter, status, group_id, detached, attempt, error, finished_at"""

_SOME = Query(f"select {_COLUMNS} from tasks where task_id = any(%(task_ids)s)")

# Uses tasks_of_parent, and tasks_of_group.
_OF_PARENT = Query(f"""
    select {_COLUMNS} from tasks where parent_task_id = %(task_id)s and task_id > %(after)s
    order by task_id limit %(limit)s""")
_OF_GROUP = Query(f"""
    select {_COLUMNS} from tasks where group_id = %(group_id)s and task_id > %(after)s
    order by task_id limit %(limit)s""")

_FIND = Query("""
    select task_id, task_key, run_id, status, optional from tasks
    where parent_task_id = %(task_id)s and (task_id = any(%(names)s) or task_key = any(%(names)s))""")

_MODES: Final = ("readOnly", "ask", "auto")
"""From what asks least of the owner's trust to what asks most."""


async def spawn(
    conn: Connection, ledger: Ledger, holder: Holder, body: TaskSpawn
) -> tuple[Spawned, int]:
    """The children, and how many of them are ready. See `TaskSpawn`; 403 `grant_required` (F25), 409
    `operation_conflict`, `group_closed`, `wait_deadlock`, `run_conflict`, `budget_exhausted`, 400
    `limit_exceeded`."""
    key = {"task_id": holder.task_id, "operation_id": body.operation_id}
    digest = runs.digest_of(body)
    known = await row(conn, _KNOWN, key)
    if known is not None:
        if bytes(known[0]) != digest:
            raise ApiError("operation_conflict", "this operation id was used for other children", "use a new operation id for new children")
        return Spawned(operation_id=body.operation_id, children=await some(conn, known[1])), 0
    found = await row(conn, _PARENT, {"task_id": holder.task_id})
    assert found is not None
    parent_key, root_id, depth, child_count, stored = found
    parent = msgspec.convert(stored, TaskDefinition)
    _require_alive(ledger, holder.run_id)
    group = None if body.group is None else await groups.get(conn, holder.task_id, body.group)
    if group is not None and GroupStatus(group.status) is not GroupStatus.OPEN:
        raise ApiError("group_closed", f"the group {group.group_key!r} is {group.status}", "open another group", groupId=group.group_id)
    _check_room(depth, child_count, len(body.tasks))
    await budgets.check_children(conn, holder.run_id, holder.task_id, len(body.tasks))
    if group is not None and group.max_children is not None:
        _check_limit("the group", group.counts.total + len(body.tasks), group.max_children)
    named = _named(parent_key, child_count, body.tasks, member=group is not None)
    for child_key, definition in named:
        check_definition(child_key, definition)
        if definition.input is not None:
            check_size(f"tasks.{child_key}.input", definition.input, limits.TASK_INPUT_SIZE_BYTES_MAX)
        _check_grants(parent, child_key, definition)
    await _check_keys(conn, holder.run_id, [child_key for child_key, _ in named])
    await _check_deadlock(conn, holder, [d for _, d in named])
    await input_artifacts.check(conn, holder.owner_id, named)
    saved = [(new_id("task"), child_key, definition) for child_key, definition in named]
    ids = [task_id for task_id, _, _ in saved]
    await run(conn, _REMEMBER, key | {"digest": digest, "child_ids": ids})
    await run(conn, _COUNT_CHILDREN, {"task_id": holder.task_id, "count": len(ids)})
    if group is not None:
        await run(conn, _COUNT_MEMBERS, {"group_id": group.group_id, "count": len(ids)})
    lineage = Lineage(
        holder.task_id, root_id or holder.task_id, group.group_id if group else None, depth + 1,
        body.detached,
    )  # fmt: skip
    data = {"count": len(ids), "taskKeys": [k for k, _ in named][:20], "assignmentId": holder.assignment_id}
    told = data | ({"groupId": group.group_id, "groupKey": group.group_key} if group else {})
    ledger.event(holder.run_id, "task.spawned", holder.task_id, told)
    ready = await admission.append(conn, holder.owner_id, ledger, holder.run_id, saved, lineage)
    await joins.settle(conn, ledger)
    return Spawned(operation_id=body.operation_id, children=await some(conn, ids)), ready


async def some(conn: Connection, task_ids: Sequence[str]) -> list[Child]:
    """These children, in this order."""
    found = {r[0]: _child(r) for r in await rows(conn, _SOME, {"task_ids": list(task_ids)})}
    return [found[task_id] for task_id in task_ids if task_id in found]


async def children(
    conn: Connection, task_id: str, *, group: str | None, after: str | None, limit: int
) -> Children:
    """Children of a task in the order they were made, all or those of a group of it."""
    params = {"task_id": task_id, "after": after or "", "limit": limit}
    if group is None:
        found = await rows(conn, _OF_PARENT, params)
    else:
        group_id = (await groups.get(conn, task_id, group)).group_id
        found = await rows(conn, _OF_GROUP, params | {"group_id": group_id})
    cursor = found[-1][0] if len(found) == limit else None
    return Children(children=[_child(r) for r in found], next_cursor=cursor)


async def of_task(
    conn: Connection, owner_id: str, task_id: str, *, group: str | None, after: str | None, limit: int
) -> Children:
    """The same for a task of this owner, or 404."""
    await tasks.require(conn, owner_id, task_id)
    return await children(conn, task_id, group=group, after=after, limit=limit)


async def resolve(
    conn: Connection, task_id: str, names: Collection[str]
) -> list[tuple[str, str, str, str, bool]]:
    """(task id, key, run id, status, optional) of children by id or key; 404 when one is no child."""
    found = await rows(conn, _FIND, {"task_id": task_id, "names": list(names)})
    known = {name for r in found for name in r[:2]}
    for name in names:
        if name not in known:
            raise not_found("task")
    return found


def _require_alive(ledger: Ledger, run_id: str) -> None:
    """A closed run takes children still, a cancelled one nothing."""
    runs.require_kept(ledger, run_id)
    if ledger.runs[run_id].cancelled:
        raise ApiError("run_closed", f"run {ledger.runs[run_id].run_key!r} is cancelled", "end the task")


def _check_room(depth: int, child_count: int, more: int) -> None:
    _check_limit("one task", child_count + more, limits.CHILDREN_MAX)
    if depth >= limits.SPAWN_DEPTH_MAX:
        raise ApiError("limit_exceeded", f"the task is {depth} generations below the graph", "let a task higher up make the children", limit=limits.SPAWN_DEPTH_MAX)


def _check_limit(whose: str, wanted: int, limit: int) -> None:
    if wanted > limit:
        raise ApiError("limit_exceeded", f"{whose} allows {limit} children, this would make {wanted}", "make fewer", limit=limit)


def _named(
    parent_key: str, child_count: int, definitions: Sequence[TaskDefinition], *, member: bool
) -> list[tuple[str, TaskDefinition]]:
    """Definitions with their keys. Members of a group never decide the run: the group's owner does."""
    named: list[tuple[str, TaskDefinition]] = []
    for number, definition in enumerate(definitions, child_count + 1):
        tail = f"-{number}"
        key = definition.task_key or parent_key[: limits.KEY_LENGTH_MAX - len(tail)].rstrip("-") + tail
        fields: dict[str, Any] = {"task_key": key} | ({"optional": True} if member else {})
        named.append((key, msgspec.structs.replace(definition, **fields)))
    return named


def _check_grants(parent: TaskDefinition, key: str, child: TaskDefinition) -> None:
    """F25: nobody gives what they do not have."""
    for grant in child.tool_grants:
        if grant not in parent.tool_grants:
            raise ApiError(
                "grant_required", f"child {key!r} asks for the grant {grant!r}, which this task does not have",
                f"leave it out, or give this task the tool grant {grant!r}", grant=grant, taskKey=key,
            )  # fmt: skip
    own, asked = parent.permission_mode or "auto", child.permission_mode or "auto"
    if _MODES.index(asked) > _MODES.index(own):
        raise ApiError(
            "grant_required", f"child {key!r} would work in the permission mode {asked}, this task has {own}",
            f"give the child the permission mode {own}", grant=f"permissionMode:{asked}", taskKey=key,
        )  # fmt: skip


async def _check_keys(conn: Connection, run_id: str, wanted: list[str]) -> None:
    taken = [key for (key,) in await rows(conn, _TAKEN, {"run_id": run_id, "keys": wanted})]
    if taken:
        raise ApiError("run_conflict", f"the run already has a task {taken[0]!r}", "give the children other keys, or leave the keys out", taskKeys=taken[:50])


async def _check_deadlock(
    conn: Connection, holder: Holder, definitions: Sequence[TaskDefinition]
) -> None:
    """Refuse children that could only begin when this task, or one that waits for it, has ended."""
    named = {key for definition in definitions for key in definition.depends_on if keys.is_key(key)}
    if not named:
        return
    params = {"task_id": holder.task_id, "run_id": holder.run_id, "keys": sorted(named)}
    waited_for = [key for (key,) in await rows(conn, _WAITED_FOR, params)]
    if waited_for:
        raise ApiError("wait_deadlock", f"a child would wait for {waited_for[0]!r}, which made it", "let it depend on something else", taskKeys=waited_for)


def _child(found: tuple[Any, ...]) -> Child:
    task_id, key, title, adapter, status, group_id, detached, attempt, error, finished_at = found
    return Child(
        task_id=task_id, task_key=key, title=title, adapter=adapter, status=status, group_id=group_id,
        detached=detached, attempt=attempt, finished_at=finished_at,
        error=msgspec.convert(error, TaskError) if error else None,
    )  # fmt: skip
