"""Routes of runs. `{run}` is an id or a key everywhere."""

from __future__ import annotations

import msgspec

from flakes.core import limits
from flakes.server.routing import Answer, Call, Endpoint, PageLength, bounded
from flakes.store import admission, interventions, runs, tasks
from flakes.wire.errors import ApiError
from flakes.wire.runs import GraphPost, Run, RunDeleted, RunPut, Runs, RunWithTasks
from flakes.wire.tasks import Admit, Reason


class RunsQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of the list of runs."""

    limit: PageLength = limits.PAGE_LENGTH_DEFAULT
    cursor: str | None = None
    state: str | None = None
    project_key: str | None = None
    q: str | None = None
    """Words that stand in the name or the key."""


async def put(call: Call) -> Answer:
    """Create a run, or read the identical one."""
    async with call.plane.database.transaction() as conn:
        run, created = await runs.put(conn, call.owner_id, call.path["run"], call.body)
    call.plane.wrote()
    return Answer(run, 201 if created else 200)


async def graph(call: Call) -> Answer:
    """Create a run, its tasks and their admission in one transaction; an identical body replays."""
    async with call.plane.database.transaction() as conn:
        run_id, ready, fresh = await admission.graph(
            conn, call.owner_id, call.path["run"], call.body
        )
    call.plane.wrote(ready=ready)
    async with call.plane.database.connection() as conn:
        run = await runs.get(conn, call.owner_id, run_id)
        found = await tasks.page(conn, call.owner_id, run_id, after=None, limit=10_000)
    return Answer(RunWithTasks(run=run, tasks=found), 201 if fresh else 200)


async def page(call: Call) -> Runs:
    """List runs, newest first."""
    query: RunsQuery = call.query
    limit = bounded(query.limit)
    async with call.plane.database.connection() as conn:
        found = await runs.page(
            conn, call.owner_id, before=query.cursor, limit=limit, state=query.state,
            project_key=query.project_key, words=query.q and query.q.strip()[:200],
        )  # fmt: skip
    return Runs(runs=found, next_cursor=found[-1].run_id if len(found) == limit else None)


async def get(call: Call) -> Run:
    """Read a run by id or key."""
    async with call.plane.database.connection() as conn:
        return await runs.get(conn, call.owner_id, call.path["run"])


async def admit(call: Call) -> RunWithTasks:
    """Admit saved tasks for scheduling: some by key, or all."""
    body: Admit = call.body
    if body.all == (body.task_keys is not None):
        raise ApiError("invalid_request", "give either taskKeys or all: true", "name the tasks to admit, or all of them")
    async with call.plane.database.transaction() as conn:
        run_id, admitted, ready = await admission.admit(
            conn, call.owner_id, call.path["run"], body.task_keys
        )
    call.plane.wrote(ready=ready)
    async with call.plane.database.connection() as conn:
        return RunWithTasks(
            run=await runs.get(conn, call.owner_id, run_id),
            tasks=await tasks.some(conn, call.owner_id, admitted),
        )


async def close(call: Call) -> Run:
    """Close a run: no more top-level tasks."""
    async with call.plane.database.transaction() as conn:
        run = await runs.close(conn, call.owner_id, call.path["run"])
    call.plane.wrote()
    return run


async def cancel(call: Call) -> Answer:
    """Stop everything of a run; running tasks end when their sandboxes confirm it."""
    reason = call.body.reason
    async with call.plane.database.transaction() as conn:
        done = await interventions.cancel_run(conn, call.owner_id, call.path["run"], reason)
    call.plane.deliver(done, reason)
    async with call.plane.database.connection() as conn:
        return Answer(await runs.get(conn, call.owner_id, done.run_id), 202)


async def retry(call: Call) -> Run:
    """Rerun from failed: a new attempt of every failed or cancelled task."""
    async with call.plane.database.transaction() as conn:
        done = await interventions.retry_run(conn, call.owner_id, call.path["run"])
    call.plane.wrote(ready=done.ready)
    async with call.plane.database.connection() as conn:
        return await runs.get(conn, call.owner_id, done.run_id)


async def delete(call: Call) -> Answer:
    """Delete a run and its history; a live one is cancelled first, and goes when nothing of it lives."""
    async with call.plane.database.transaction() as conn:
        done, gone = await interventions.delete_run(conn, call.owner_id, call.path["run"])
    call.plane.deliver(done, "the run is deleted")
    if gone:
        call.plane.garbage.set()
        return Answer(RunDeleted(status="deleted", run_id=done.run_id))
    call.plane.sweep.set()
    return Answer(RunDeleted(status="deleting", run_id=done.run_id), 202)


ENDPOINTS = [
    Endpoint("GET", "/v1/runs", page, Runs, query=RunsQuery, tag="runs"),
    Endpoint("PUT", "/v1/runs/{run}", put, Run, RunPut, tag="runs", creates=True,
             errors=("limit_exceeded", "run_conflict", "run_deleting", "project_archived")),
    Endpoint("GET", "/v1/runs/{run}", get, Run, tag="runs"),
    Endpoint("DELETE", "/v1/runs/{run}", delete, RunDeleted, tag="runs", accepts=True),
    Endpoint("POST", "/v1/runs/{run}/graph", graph, RunWithTasks, GraphPost, tag="runs", creates=True,
             errors=("graph_invalid", "limit_exceeded", "run_conflict", "run_closed", "run_deleting", "project_archived",
                     "artifact_pending")),
    Endpoint("POST", "/v1/runs/{run}/tasks/admit", admit, RunWithTasks, Admit, tag="runs",
             errors=("graph_invalid", "run_closed", "run_deleting", "limit_exceeded", "artifact_pending")),
    Endpoint("POST", "/v1/runs/{run}/close", close, Run, Reason, tag="runs"),
    Endpoint("POST", "/v1/runs/{run}/cancel", cancel, Run, Reason, status=202, tag="runs"),
    Endpoint("POST", "/v1/runs/{run}/retry", retry, Run, Reason, tag="runs", errors=("run_deleting",)),
]  # fmt: skip
