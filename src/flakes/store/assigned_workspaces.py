"""Which files a task begins from, decided when it is offered.

A task without dependencies gets what its run has selected. One with dependencies gets what those left:
the declared outputs of each, else what it changed, else what its own dependencies left, a few levels up;
where that gives nothing, what is selected. Failed dependencies hand nothing on. Runs that have no
workspace are not looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from flakes.store import workspaces
from flakes.store.database import Connection, Query, rows
from flakes.wire.errors import ApiError
from flakes.wire.tasks import TaskDefinition
from flakes.wire.workspaces import SELECTED, AssignedWorkspace, WorkspaceHandle, WorkspaceRef

LEVELS_MAX = 64
"""How far up the graph is looked for what a dependency began from, when it changed nothing itself."""

_SELECTED = Query("""
    select run_id, name, workspace_id, version, updated_at from workspace_refs
    where run_id = any(%(run_ids)s) and name = %(name)s""")

_KNOWN = Query("""
    select workspace_id from workspaces
    where workspace_id = any(%(workspace_ids)s) and owner_id = %(owner_id)s""")

_LEFT = """
    left join lateral (
        select w.workspace_id from workspaces w
        join assignments a on a.assignment_id = w.assignment_id
        where w.task_id = d.depends_on and a.state = 'succeeded'
          and (w.kind = 'output' or w.kind = 'candidate' and not exists (
              select 1 from workspaces n
              where n.task_id = w.task_id and n.assignment_id = w.assignment_id
                and (n.kind = 'output' or n.kind = 'candidate' and n.workspace_id > w.workspace_id)))
        ) h on true"""

_NEAREST = Query(f"""
    with recursive walk(root, first, at, workspace_id, level) as (
        select d.task_id, d.depends_on, d.depends_on, h.workspace_id, 1
        from task_dependencies d {_LEFT}
        where d.task_id = any(%(task_ids)s)
        union
        select k.root, k.first, d.depends_on, h.workspace_id, k.level + 1
        from walk k join task_dependencies d on d.task_id = k.at {_LEFT}
        where k.workspace_id is null and k.level < %(levels_max)s
    )
    select k.root, s.task_key, k.workspace_id
    from walk k join tasks s on s.task_id = k.first
    where k.workspace_id is not null
    order by k.root, k.level, k.workspace_id""")


@dataclass(frozen=True, slots=True)
class Asking:
    """A task that is offered, in a run that has files, or that names some."""

    task_id: str
    run_id: str
    definition: TaskDefinition
    stored: bool
    """Whether any task of the run has stored files."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a task gets."""

    workspace: AssignedWorkspace | None
    inputs: dict[str, WorkspaceHandle]


async def of_tasks(conn: Connection, asking: Sequence[Asking]) -> dict[str, Given]:
    """What each of these tasks gets, by task id."""
    if not asking:
        return {}
    selected = await _selected(conn, sorted({each.run_id for each in asking}))
    dependent = [a.task_id for a in asking if a.stored and a.definition.depends_on]
    left: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    if dependent:
        params = {"task_ids": dependent, "levels_max": LEVELS_MAX}
        for task_id, task_key, workspace_id in await rows(conn, _NEAREST, params):
            left[task_id].append((task_key, workspace_id))
    wanted = {each.workspace_id for each in selected.values()}
    wanted |= {workspace_id for found in left.values() for _, workspace_id in found}
    wanted |= {name for each in asking for name in each.definition.workspace_inputs.values()}
    handles = await workspaces.some(conn, wanted)
    return {
        each.task_id: Given(
            _assigned(each, selected.get(each.run_id), left[each.task_id], handles),
            {
                mount: handles[workspace_id]
                for mount, workspace_id in each.definition.workspace_inputs.items()
                if workspace_id in handles
            },
        )
        for each in asking
    }


async def check(
    conn: Connection, owner_id: str, definitions: Sequence[tuple[str, TaskDefinition]]
) -> None:
    """Refuse tasks that name workspaces which are not the account's: 404 `not_found`."""
    wanted = {name for _, d in definitions for name in d.workspace_inputs.values()}
    if not wanted:
        return
    params = {"owner_id": owner_id, "workspace_ids": sorted(wanted)}
    known = {found[0] for found in await rows(conn, _KNOWN, params)}
    for key, definition in definitions:
        for mount, name in definition.workspace_inputs.items():
            if name not in known:
                raise ApiError(
                    "not_found", f"task {key!r} names the workspace {name[:80]!r}, which is not there",
                    "name one of yours", taskKey=key, mount=mount, workspaceId=name[:80],
                )  # fmt: skip


async def _selected(conn: Connection, run_ids: Sequence[str]) -> dict[str, WorkspaceRef]:
    params = {"run_ids": list(run_ids), "name": SELECTED}
    return {
        run_id: WorkspaceRef(name=name, workspace_id=workspace_id, version=version, updated_at=at)
        for run_id, name, workspace_id, version, at in await rows(conn, _SELECTED, params)
    }


def _assigned(
    asking: Asking,
    selected: WorkspaceRef | None,
    left: Sequence[tuple[str, str]],
    handles: dict[str, WorkspaceHandle],
) -> AssignedWorkspace | None:
    order = {key: place for place, key in enumerate(asking.definition.depends_on)}
    chosen = [name for _, name in sorted(left, key=lambda each: order.get(each[0], len(order)))]
    if not chosen and selected is not None:
        chosen = [selected.workspace_id]
    found = [handles[name] for name in dict.fromkeys(chosen) if name in handles]
    if not found:
        return None
    return AssignedWorkspace(handle=found[0], merge=found[1:], selected=selected)
