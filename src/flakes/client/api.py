"""The API as typed methods: one for every route that a user may call, named after what it does.

Owns paths and shapes, nothing else: `transport` retries and translates errors, `events` follows the
log. Keys and ids go into paths quoted, whatever they hold. Answers are the frozen structs of `wire`;
every refusal is `wire.errors.ApiError` with the server's code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec

from flakes.client import events as event_stream
from flakes.client import logs as log_stream
from flakes.client.accounts import AccountMethods
from flakes.client.events import Notice
from flakes.client.fleet import FleetMethods
from flakes.client.pictures import PictureMethods
from flakes.client.steering import SteeringMethods
from flakes.client.transcripts import TranscriptMethods
from flakes.client.transport import Address, Transport, error_of
from flakes.client.workspaces import WorkspaceMethods
from flakes.core import keys
from flakes.core.run import TERMINAL, RunState
from flakes.core.task import TERMINAL as TASK_TERMINAL
from flakes.wire import projects, runs, tasks
from flakes.wire.errors import ApiError
from flakes.wire.events import Event, Events
from flakes.wire.metrics import RunMetrics


class Client(
    AccountMethods, WorkspaceMethods, FleetMethods, PictureMethods, SteeringMethods, TranscriptMethods
):
    """A control plane at `server`, asked as whoever holds `token`. Use it as an async context.

    `locate` is asked for a new address when the connection is refused (a local session may move).
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        *,
        timeout_s: float = 60.0,
        locate: Callable[[], Address | None] | None = None,
    ) -> None:
        address = Address(server.rstrip("/"), token)
        self._transport = Transport(address, timeout_s=timeout_s, locate=locate)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    @property
    def server(self) -> str:
        """The address in use, which changes when a local session moves."""
        return self._transport.address.server

    # Projects

    async def list_projects(
        self, *, limit: int | None = None, cursor: str | None = None
    ) -> projects.Projects:
        params = {"limit": limit, "cursor": cursor}
        return await self._transport.call("GET", "/v1/projects", projects.Projects, params=params)

    async def get_project(self, project: str) -> projects.Project:
        return await self._transport.call("GET", _path("projects", project), projects.Project)

    async def put_project(
        self, project_key: str, name: str, *, metadata: dict[str, Any] | None = None
    ) -> projects.Project:
        """Create it, or read it when it is the same; `project_conflict` when it differs."""
        body = projects.ProjectPut(name=name, metadata=metadata or {})
        path = _path("projects", project_key)
        return await self._transport.call("PUT", path, projects.Project, body=body)

    async def patch_project(
        self, project: str, *, name: str | None = None, metadata: dict[str, Any] | None = None
    ) -> projects.Project:
        given = {"name": name, "metadata": metadata}
        body = {field: value for field, value in given.items() if value is not None}
        path = _path("projects", project)
        return await self._transport.call(
            "PATCH", path, projects.Project, body=body, idempotent=True
        )

    async def archive_project(self, project: str) -> projects.Project:
        path = _path("projects", project, "archive")
        return await self._transport.call("POST", path, projects.Project, body={}, idempotent=True)

    async def ensure_project(self, project_key: str) -> projects.Project:
        """The project of that key, made with its key as its name when there is none."""
        try:
            return await self.get_project(project_key)
        except ApiError as error:
            if error.code != "not_found":
                raise
        try:
            return await self.put_project(project_key, project_key)
        except ApiError as error:
            # Somebody else made it in between, under another name.
            if error.code != "project_conflict":
                raise
            return await self.get_project(project_key)

    # Runs

    async def put_run(self, run_key: str, body: runs.RunPut) -> runs.Run:
        return await self._transport.call("PUT", _path("runs", run_key), runs.Run, body=body)

    async def post_graph(
        self, run_key: str, body: runs.GraphPost | Mapping[str, Any]
    ) -> runs.RunWithTasks:
        """Run, tasks and admission in one transaction; an identical body replays the first answer."""
        path = _path("runs", run_key, "graph")
        return await self._transport.call(
            "POST", path, runs.RunWithTasks, body=body, idempotent=True
        )

    async def get_run(self, run: str) -> runs.Run:
        return await self._transport.call("GET", _path("runs", run), runs.Run)

    async def list_runs(
        self,
        *,
        state: str | None = None,
        project_key: str | None = None,
        words: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> runs.Runs:
        """Newest first; `words` stand in the name or the key."""
        params = {
            "state": state, "projectKey": project_key, "q": words, "limit": limit, "cursor": cursor,
        }  # fmt: skip
        return await self._transport.call("GET", "/v1/runs", runs.Runs, params=params)

    async def close_run(self, run: str, reason: str | None = None) -> runs.Run:
        return await self._reasoned(_path("runs", run, "close"), reason, runs.Run)

    async def cancel_run(self, run: str, reason: str | None = None) -> runs.Run:
        return await self._reasoned(_path("runs", run, "cancel"), reason, runs.Run)

    async def retry_run(self, run: str) -> runs.Run:
        """Try every failed and cancelled task of the run again."""
        path = _path("runs", run, "retry")
        return await self._transport.call("POST", path, runs.Run, body={}, keyed=True)

    async def delete_run(self, run: str) -> runs.RunDeleted:
        """Delete it with its history. A live one is cancelled first, and `deleting` until nothing lives."""
        path = _path("runs", run)
        return await self._transport.call("DELETE", path, runs.RunDeleted, keyed=True)

    async def run_metrics(self, run: str) -> RunMetrics:
        """How long its work waited and ran, and how it ended; times in milliseconds."""
        return await self._transport.call("GET", _path("runs", run, "metrics"), RunMetrics)

    async def history(self, run: str) -> AsyncGenerator[bytes]:
        """The lines of `history.jsonl` (see `wire.history`), without their line ends, of one moment.

        An export that breaks off is `server_unreachable`; what came before is not the whole history.
        """
        path = _path("runs", run, "history.jsonl")
        try:
            async with self._transport.stream(path, {}, {}, HISTORY_SILENCE_S) as response:
                if response.status_code != 200:
                    raise error_of(response.status_code, await response.aread())
                rest = b""
                async for chunk in response.aiter_bytes():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield line
        except httpx2.TransportError as error:
            raise self._transport.unreachable(error) from error

    # Tasks

    async def put_task(
        self, run: str, task_key: str, definition: tasks.TaskDefinition
    ) -> tasks.Task:
        path = _path("runs", run, "tasks", task_key)
        return await self._transport.call("PUT", path, tasks.Task, body=definition)

    async def admit(self, run: str, task_keys: Sequence[str] | None = None) -> runs.RunWithTasks:
        """Admit these saved tasks, or all of them when no keys are given."""
        body = {"all": True} if task_keys is None else {"taskKeys": list(task_keys)}
        path = _path("runs", run, "tasks", "admit")
        return await self._transport.call(
            "POST", path, runs.RunWithTasks, body=body, idempotent=True
        )

    async def list_tasks(
        self,
        run: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        status: str | None = None,
    ) -> tasks.Tasks:
        """One page, at most 10,000 long."""
        params = {"limit": limit, "cursor": cursor, "status": status}
        path = _path("runs", run, "tasks")
        return await self._transport.call("GET", path, tasks.Tasks, params=params)

    async def all_tasks(self, run: str) -> list[tasks.Task]:
        """Every task of a run, over as many pages as it takes."""
        page = await self.list_tasks(run, limit=10_000)
        found = list(page.tasks)
        while page.next_cursor is not None and page.tasks:
            page = await self.list_tasks(run, limit=10_000, cursor=page.next_cursor)
            found += page.tasks
        return found

    async def explain_run(
        self, run: str, *, limit: int | None = None, cursor: str | None = None
    ) -> tasks.TasksExplained:
        """The tasks of a run that do not move, and why: those that wait for a person come first."""
        params = {"limit": limit, "cursor": cursor}
        path = _path("runs", run, "explanations")
        return await self._transport.call("GET", path, tasks.TasksExplained, params=params)

    async def get_task(self, task: str, *, explain: bool = False) -> tasks.TaskDetail:
        """`task` is a task id, or `RUN/TASKKEY`; `explain` adds why it is not running."""
        if "/" not in task:
            params = {"explain": "1"} if explain else None
            path = _path("tasks", task)
            return await self._transport.call("GET", path, tasks.TaskDetail, params=params)
        run, _, task_key = task.partition("/")
        path = _path("runs", run, "tasks", task_key)
        detail = await self._transport.call("GET", path, tasks.TaskDetail)
        return await self.get_task(detail.task_id, explain=True) if explain else detail

    async def task_id(self, task: str) -> str:
        """The id behind a task id or `RUN/TASKKEY`."""
        if keys.has_prefix(task, "task"):
            return task
        return (await self.get_task(task)).task_id

    async def result(self, task_id: str) -> tasks.TaskResult:
        """What a task left behind; `result_not_ready` while it has not ended."""
        path = _path("tasks", task_id, "result")
        return await self._transport.call("GET", path, tasks.TaskResult)

    async def output(self, task_id: str, output_key: str) -> bytes:
        """The bytes of one output."""
        path = _path("tasks", task_id, "outputs", output_key)
        return (await self._transport.send("GET", path)).content

    async def cancel_task(self, task_id: str, reason: str | None = None) -> tasks.Task:
        return await self._reasoned(_path("tasks", task_id, "cancel"), reason, tasks.Task)

    async def retry_task(self, task_id: str) -> tasks.Task:
        path = _path("tasks", task_id, "retry")
        return await self._transport.call("POST", path, tasks.Task, body={}, keyed=True)

    async def logs(
        self,
        task_id: str,
        *,
        after: str | None = None,
        limit: int | None = None,
        tail: int | None = None,
        channel: str | None = None,
    ) -> tasks.Logs:
        """A page of log lines, oldest first; pass its `next_cursor` as `after` for the next."""
        params = {"after": after, "limit": limit, "tail": tail, "channel": channel}
        path = _path("tasks", task_id, "logs")
        return await self._transport.call("GET", path, tasks.Logs, params=params)

    async def follow_logs(
        self,
        task_id: str,
        *,
        after: str | None = None,
        tail: int | None = None,
        channel: str | None = None,
        patience_s: float | None = None,
        notice: Notice | None = None,
    ) -> AsyncGenerator[tasks.LogEntry]:
        """Lines as they come, from a cursor or the last `tail` on, until the task has ended.

        Reconnects by itself after the last line, also over a restart of the server.
        """
        path = _path("tasks", task_id, "logs")
        params = {"after": after, "tail": tail, "channel": channel}
        stream = log_stream.follow(
            self._transport, path, params, patience_s=patience_s, notice=notice
        )
        begun = False
        try:
            async with aclosing(stream) as source:
                async for entry in source:
                    begun = True
                    yield entry
            return
        except ApiError as error:
            if begun or error.code not in log_stream.UNSUPPORTED:
                raise

        async def fetch(query: Mapping[str, Any]) -> tasks.Logs:
            return await self._transport.call("GET", path, tasks.Logs, params=query)

        present = {name: value for name, value in params.items() if value is not None}
        async with aclosing(log_stream.poll(fetch, present, self._task_ended(task_id))) as source:
            async for entry in source:
                yield entry

    async def _task_ended(self, task_id: str) -> None:
        async with aclosing(self.events(task_id=task_id, types=_TASK_ENDS)) as stream:
            async for _ in stream:
                # Of a task that was tried again the log holds earlier ends too.
                if (await self.get_task(task_id)).status in TASK_TERMINAL:
                    return

    async def activity(
        self, task_id: str, *, after: str | None = None, limit: int | None = None
    ) -> Events:
        params = {"after": after, "limit": limit}
        return await self._transport.call(
            "GET", _path("tasks", task_id, "activity"), Events, params=params
        )

    # Following

    async def events(
        self,
        *,
        run_id: str | None = None,
        task_id: str | None = None,
        types: Sequence[str] = (),
        after: str | None = None,
        patience_s: float | None = None,
        notice: Notice | None = None,
    ) -> AsyncGenerator[Event]:
        """Events for ever, over reconnects and restarts; see `client.events`.

        Without `after` they come from the beginning of the run or task (from now when neither is
        named); `after="now"` begins with what happens next.
        """
        params = {"runId": run_id, "taskId": task_id, "types": ",".join(types) or None}
        stream = event_stream.follow(
            self._transport, params, after=after, patience_s=patience_s, notice=notice
        )
        async with aclosing(stream) as source:
            async for event in source:
                yield event

    async def follow_run(
        self,
        run: str,
        *,
        types: Sequence[str] = (),
        patience_s: float | None = None,
        notice: Notice | None = None,
    ) -> AsyncGenerator[Event]:
        """The run's story from its beginning, ending with the event that completes it.

        The log may hold earlier ends of a run that was retried, so an event that could be the end is
        checked against the run itself before it is believed.
        """
        run_id = (await self.get_run(run)).run_id
        stream = self.events(
            run_id=run_id, types=_ENDING_TYPES + tuple(types) if types else (),
            patience_s=patience_s, notice=notice,
        )  # fmt: skip
        async with aclosing(stream) as source:
            async for event in source:
                yield event
                if event.type == "run.deleted":
                    return
                if may_end(event) and _ended_by(await self._look(run_id, patience_s), event):
                    return

    async def wait_run(
        self,
        run: str,
        *,
        timeout_s: float | None = None,
        patience_s: float | None = None,
        notice: Notice | None = None,
    ) -> runs.Run:
        """The run once it is complete; `timeout` (the work goes on) when it is not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                current = await self.get_run(run)
                if is_complete(current):
                    return current
                stream = self.follow_run(
                    current.run_id, types=_ENDING_TYPES, patience_s=patience_s, notice=notice
                )
                async with aclosing(stream) as source:
                    async for _ in source:
                        pass
                return await self._look(current.run_id, patience_s)
        except TimeoutError:
            raise ApiError(
                "timeout",
                f"run {run} did not end within {timeout_s:g} s; it goes on",
                f"wait again with `flakes runs wait {run}`, or stop it with `flakes runs cancel {run}`",
            ) from None

    async def wait_deleted(self, run_id: str, *, timeout_s: float | None = None) -> None:
        """Wait until a run whose delete was asked for is gone; `timeout` when it is not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        stream = self.events(run_id=run_id, types=("run.deleted",))
                        async with aclosing(stream) as source:
                            async for _ in source:
                                return
                    except ApiError as error:
                        if error.code == "not_found":
                            return
                        raise
        except TimeoutError:
            raise ApiError(
                "timeout",
                f"run {run_id} was not gone within {timeout_s:g} s; it goes once nothing of it runs",
                f"wait again with `flakes runs delete {run_id} --wait`",
            ) from None

    async def _look(self, run_id: str, patience_s: float | None) -> runs.Run:
        """The run, read while following: a server that is away at this moment is waited for too."""
        began_s = time.monotonic()
        while True:
            try:
                return await self.get_run(run_id)
            except ApiError as error:
                late = patience_s is not None and time.monotonic() - began_s > patience_s
                if late or error.code not in ("server_unreachable", "database_unavailable"):
                    raise
            await asyncio.sleep(event_stream.BACKOFF_MAX_S / 5)

    async def _reasoned(self, path: str, reason: str | None, kind: type[Any]) -> Any:
        body = tasks.Reason(reason=reason) if reason else {}
        return await self._transport.call("POST", path, kind, body=body, idempotent=True)


_TASK_ENDS = ("task.succeeded", "task.failed", "task.cancelled")
HISTORY_SILENCE_S = 120.0
_ENDING_TYPES = ("run.state", "run.closed", "run.cancel_requested", "run.deleted")


def is_complete(run: runs.Run) -> bool:
    """Whether nothing can happen to the run any more, short of a retry."""
    return run.state in TERMINAL and (run.closed or run.cancel_requested)


def may_end(event: Event) -> bool:
    """Whether this event may be the one that completes its run."""
    if event.type == "run.state":
        return event.data.get("state") in {state.value for state in RunState if state in TERMINAL}
    return event.type in ("run.closed", "run.cancel_requested")


def _ended_by(run: runs.Run, event: Event) -> bool:
    if not is_complete(run):
        return False
    # An end that a retry undid lies before the end that counts. Both times are the database's own; a
    # second of grace covers times taken at different moments of one transaction.
    return run.completed_at is None or (run.completed_at - event.at).total_seconds() < 1.0


def _path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def decode_output(content: bytes) -> Any:
    """The value of a `json` output."""
    return msgspec.json.decode(content)
