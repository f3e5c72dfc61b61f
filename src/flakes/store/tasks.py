"""Reading tasks: pages without payloads, one task with its definition and attempts, results, keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from flakes.core import limits
from flakes.core.task import TERMINAL, TaskStatus
from flakes.store import runs, transcripts
from flakes.store.database import Connection, Query, row, rows
from flakes.wire.errors import ApiError, not_found
from flakes.wire.groups import EndedTask, EndedTasks
from flakes.wire.tasks import Attempt, Task, TaskDetail, TaskError, TaskResult
from flakes.wire.workpads import WorkpadMetadata

# No payload is joined here (F27): title and keys are all that lists show of a definition.
_COLUMNS = """t.task_id, t.task_key, t.run_id, r.project_id, t.title, t.adapter, t.status, t.optional,
    t.priority, t.attempt, t.created_at, t.admitted_at, t.queued_at, t.started_at, t.finished_at,
    t.next_attempt_at, t.sandbox_id, t.cancel_requested_at is not null, t.error,
    w.version, w.updated_at"""

# One statement with the filter and one without, so that each reads the index of its order.
_PAGE_OF = """
    with page as (
        select * from tasks where run_id = %(run_id)s and task_id > %(after)s {filter}
        order by task_id limit %(limit)s
    )
    select {columns},
        (select array_agg(s.task_key order by s.task_key) from task_dependencies d
         join tasks s on s.task_id = d.depends_on where d.task_id = t.task_id)
    from page t join runs r on r.run_id = t.run_id
    left join workpads w on w.task_id = t.task_id
    order by t.task_id"""
_PAGE = Query(_PAGE_OF.format(filter="", columns=_COLUMNS))
_PAGE_STATUS = Query(_PAGE_OF.format(filter="and status = %(status)s", columns=_COLUMNS))

_GET = Query(f"""
    select {_COLUMNS},
        (select array_agg(s.task_key order by s.task_key) from task_dependencies d
         join tasks s on s.task_id = d.depends_on where d.task_id = t.task_id),
        p.definition, r.run_key, j.project_key,
        (select m.task_key from tasks m where m.task_id = t.parent_task_id)
    from tasks t
    join runs r on r.run_id = t.run_id
    join projects j on j.project_id = r.project_id
    join task_payloads p on p.task_id = t.task_id
    left join workpads w on w.task_id = t.task_id
    where t.task_id = %(task_id)s and r.owner_id = %(owner_id)s""")

_SHORT = Query(f"""
    select {_COLUMNS},
        (select array_agg(s.task_key order by s.task_key) from task_dependencies d
         join tasks s on s.task_id = d.depends_on where d.task_id = t.task_id)
    from tasks t join runs r on r.run_id = t.run_id
    left join workpads w on w.task_id = t.task_id
    where t.task_id = any(%(task_ids)s) and r.owner_id = %(owner_id)s order by t.task_id""")

_ID_OF_KEY = Query("select task_id from tasks where run_id = %(run_id)s and task_key = %(key)s")

_OF_RUN = Query("""
    select task_id from tasks
    where run_id = %(run_id)s and (task_id = %(task)s or task_key = %(task)s)""")

_RELATIVE = Query("""
    select r.task_id, r.status from tasks r
    where (r.task_id = %(name)s or r.task_key = %(name)s)
      and (r.parent_task_id = %(task_id)s
           or r.task_id = (select parent_task_id from tasks where task_id = %(task_id)s))""")

_OWNED = Query("""
    select t.run_id, t.status from tasks t join runs r using (run_id)
    where t.task_id = %(task_id)s and r.owner_id = %(owner_id)s""")

_STATE = Query("""
    select t.status, t.sandbox_id from tasks t join runs r using (run_id)
    where t.task_id = %(task_id)s and r.owner_id = %(owner_id)s""")

_ATTEMPTS = Query("""
    select assignment_id, attempt, sandbox_id, state, offered_at, accepted_at, ended_at, reason
    from assignments where task_id = %(task_id)s order by assignment_id""")

_RESULT = Query("""
    select t.status, t.error, t.attempt, t.sandbox_id, t.started_at, t.finished_at,
           s.assignment_id, s.result
    from tasks t join runs r on r.run_id = t.run_id
    left join task_results s on s.task_id = t.task_id
    where t.task_id = %(task_id)s and r.owner_id = %(owner_id)s""")


_ENDED = Query("""
    select task_id, task_key, status, error, attempt, sandbox_id, started_at, finished_at, assignment_id, result,
           workspace_id, before
    from (
        select t.task_id, t.task_key, t.status, t.error, t.attempt, t.sandbox_id, t.started_at, t.finished_at,
               s.assignment_id, s.result, w.workspace_id,
               sum(coalesce(octet_length(s.result::text), 0)) over (order by t.finished_at, t.task_id)
                   - coalesce(octet_length(s.result::text), 0) as before
        from tasks t join runs r on r.run_id = t.run_id
        left join task_results s on s.task_id = t.task_id
        left join lateral (
            select max(c.workspace_id) as workspace_id from workspaces c
            where r.has_workspaces and c.run_id = t.run_id and c.task_id = t.task_id
              and c.assignment_id = s.assignment_id and c.kind = 'candidate'
        ) w on true
        where t.run_id = %(run_id)s and t.task_id = any(%(task_ids)s)
          and t.status in ('SUCCEEDED', 'FAILED', 'CANCELLED')
    ) found order by finished_at, task_id""")
RESULTS_BYTES_MAX = 4 * limits.MIB


async def page(
    conn: Connection,
    owner_id: str,
    run_reference: str,
    *,
    after: str | None,
    limit: int,
    status: str | None = None,
) -> list[Task]:
    """Tasks of a run in the order they were saved."""
    if status is not None and status not in set(TaskStatus):
        raise ApiError("invalid_request", f"unknown task status {status!r}", f"one of {', '.join(TaskStatus)}")
    run_id = await runs.resolve(conn, owner_id, run_reference)
    params = {"run_id": run_id, "after": after or "", "limit": limit, "status": status}
    query = _PAGE if status is None else _PAGE_STATUS
    return [Task(**_fields(r)) for r in await rows(conn, query, params)]


async def some(conn: Connection, owner_id: str, task_ids: list[str]) -> list[Task]:
    """These tasks, as lists show them."""
    params = {"task_ids": task_ids, "owner_id": owner_id}
    return [Task(**_fields(r)) for r in await rows(conn, _SHORT, params)]


async def get(conn: Connection, owner_id: str, task_id: str) -> TaskDetail:
    """One task, with its definition and all its attempts."""
    found = await row(conn, _GET, {"task_id": task_id, "owner_id": owner_id})
    if found is None:
        raise not_found("task")
    attempts = [
        Attempt(
            assignment_id=a, attempt=n, sandbox_id=s, state=state, offered_at=offered,
            accepted_at=accepted, ended_at=ended, reason=reason,
        )
        for a, n, s, state, offered, accepted, ended, reason in await rows(
            conn, _ATTEMPTS, {"task_id": task_id}
        )
    ]  # fmt: skip
    definition, run_key, project_key, parent = found[-4:]
    return TaskDetail(
        **_fields(found[:-4]), definition=definition, run_key=run_key, project_key=project_key, parent_task_key=parent,
        attempts=attempts, usage=(await transcripts.of_tasks(conn, [task_id])).get(task_id),
    )  # fmt: skip


async def id_of(conn: Connection, owner_id: str, run_reference: str, key: str) -> str:
    """The id of a run's task by key."""
    run_id = await runs.resolve(conn, owner_id, run_reference)
    found = await row(conn, _ID_OF_KEY, {"run_id": run_id, "key": key})
    if found is None:
        raise not_found("task")
    return found[0]


async def of_run(conn: Connection, run_id: str, reference: str) -> str:
    """The id of a task of this run, by id or key, or 404."""
    found = await row(conn, _OF_RUN, {"run_id": run_id, "task": reference})
    if found is None:
        raise not_found("task")
    return found[0]


async def relative(conn: Connection, task_id: str, reference: str) -> tuple[str, str]:
    """Id and status of the parent or a child of a task, by id or key, or 404."""
    found = await row(conn, _RELATIVE, {"task_id": task_id, "name": reference})
    if found is None:
        raise not_found("task")
    return found[0], found[1]


async def require(conn: Connection, owner_id: str, task_id: str) -> tuple[str, TaskStatus]:
    """Run id and status of a task of this owner, or 404."""
    found = await row(conn, _OWNED, {"task_id": task_id, "owner_id": owner_id})
    if found is None:
        raise not_found("task")
    return found[0], TaskStatus(found[1])


@dataclass(frozen=True, slots=True)
class State:
    """How a task stands, and on which sandbox it is or was last."""

    status: TaskStatus
    sandbox_id: str | None


async def state(conn: Connection, owner_id: str, task_id: str) -> State:
    """How a task of this owner stands, or 404."""
    found = await row(conn, _STATE, {"task_id": task_id, "owner_id": owner_id})
    if found is None:
        raise not_found("task")
    return State(TaskStatus(found[0]), found[1])


async def result(conn: Connection, owner_id: str, task_id: str) -> TaskResult:
    """What the deciding attempt left behind; 409 `result_not_ready` before the task has ended."""
    found = await row(conn, _RESULT, {"task_id": task_id, "owner_id": owner_id})
    if found is None:
        raise not_found("task")
    status, error, attempt, sandbox_id, started_at, finished_at, assignment_id, stored = found
    if TaskStatus(status) not in TERMINAL:
        raise ApiError("result_not_ready", f"the task is {status}", "wait for its run: `flakes runs wait RUN`", taskStatus=status)
    base = {
        "taskId": task_id, "status": status, "attempt": attempt, "assignmentId": assignment_id,
        "sandboxId": sandbox_id, "error": error,
    }  # fmt: skip
    answer = msgspec.convert((stored or {}) | base, TaskResult)
    return msgspec.structs.replace(answer, started_at=started_at, finished_at=finished_at)


async def ended(conn: Connection, run_id: str, task_ids: list[str]) -> EndedTasks:
    """Results of those of these tasks that have ended, in that order, as many as fit into an answer."""
    found = await rows(conn, _ENDED, {"run_id": run_id, "task_ids": task_ids})
    told: list[EndedTask] = []
    for task_id, key, status, error, attempt, sandbox_id, started, finished, assignment_id, stored, workspace_id, before in found:
        if before < RESULTS_BYTES_MAX:
            base = {
                "taskId": task_id, "taskKey": key, "status": status, "attempt": attempt,
                "assignmentId": assignment_id, "sandboxId": sandbox_id, "error": error,
                "workspaceId": workspace_id,
            }  # fmt: skip
            result = msgspec.convert((stored or {}) | base, EndedTask)
            told.append(msgspec.structs.replace(result, started_at=started, finished_at=finished))
    return EndedTasks(results=told, left=[each[0] for each in found[len(told) :]])


def _fields(r: tuple[Any, ...]) -> dict[str, Any]:
    (task_id, key, run_id, project_id, title, adapter, status, optional, priority, attempt, created,
     admitted, queued, started, finished, next_attempt, sandbox_id, cancelled, error,
     pad_version, pad_updated_at, keys) = r  # fmt: skip
    return {
        "task_id": task_id, "task_key": key, "run_id": run_id, "project_id": project_id,
        "title": title, "adapter": adapter, "status": status, "optional": optional,
        "priority": priority, "attempt": attempt, "created_at": created, "admitted_at": admitted,
        "queued_at": queued, "started_at": started, "finished_at": finished,
        "next_attempt_at": next_attempt, "sandbox_id": sandbox_id, "cancel_requested": cancelled,
        "error": msgspec.convert(error, TaskError) if error else None, "depends_on": keys or [],
        "workpad": WorkpadMetadata(version=pad_version or 0, updated_at=pad_updated_at),
    }  # fmt: skip
