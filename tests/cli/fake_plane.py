"""A control plane in memory that speaks the wire: projects, runs, a worker that finishes tasks at once,
the event log as SSE, and faults on request. It stands in for the server where the subject of a test is
the client or the CLI; the end-to-end tests use the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from datetime import UTC, datetime
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from flakes.core.run import TERMINAL as RUN_TERMINAL
from flakes.core.run import TaskCounts, derive
from flakes.core.task import TERMINAL, TaskStatus
from flakes.wire import codec
from flakes.wire.errors import ApiError, not_found
from flakes.wire.runs import GraphPost
from flakes.wire.tasks import TaskDefinition

TOKEN = "flakes_user_test"


class FakePlane:
    """`with FakePlane() as plane:` serves at `plane.url` from a thread of its own."""

    def __init__(self) -> None:
        self.projects: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.keys: list[str | None] = []
        """The Idempotency-Key of every request."""
        self.fail: list[int] = []
        """Statuses to answer the next requests with, instead of what they ask for."""
        self.cut: list[int] = []
        """How many bytes each of the next event streams sends before its connection breaks."""
        self.streams: list[str | None] = []
        """The Last-Event-ID of every event stream that was opened."""
        self.polls: list[str] = []
        """What the next polls of a device are refused with; then it is approved."""
        self.devices = 0
        self.valid = {TOKEN}
        """Tokens that are not revoked."""
        self.api_keys: dict[str, dict[str, Any]] = {}
        self.hold = asyncio.Event()
        self._changed = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            self._app(),
            log_level="critical",
            lifespan="off",
            timeout_graceful_shutdown=1,
            loop="asyncio",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), daemon=True
        )

    def __enter__(self) -> FakePlane:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)
        self._socket.close()

    # What happens

    def emit(
        self, type_: str, run: dict[str, Any], task: dict[str, Any] | None = None, **data: Any
    ) -> None:
        self.events.append({
            "cursor": f"c{len(self.events) + 1}", "type": type_, "at": now(), "runId": run["runId"],
            **({"taskId": task["taskId"], "taskKey": task["taskKey"]} if task else {}), "data": data,
        })  # fmt: skip
        self._changed.set()
        self._changed = asyncio.Event()

    def _settle(self, run: dict[str, Any]) -> None:
        mine = [t for t in self.tasks.values() if t["runId"] == run["runId"]]
        counts: dict[str, int] = {}
        for task in mine:
            counts[task["status"]] = counts.get(task["status"], 0) + 1
        run["taskCounts"] = counts
        before = run["state"]
        numbers = {TaskStatus(name): number for name, number in counts.items()}
        run["state"] = derive(
            TaskCounts(numbers, {}), cancelled=run.get("cancelRequested", False)
        ).value
        if run["state"] in RUN_TERMINAL and run["closed"]:
            run["completedAt"] = now()
        if run["state"] != before:
            self.emit("run.state", run, state=run["state"], **{"from": before})

    async def _work(self, run: dict[str, Any]) -> None:
        """Run every task of a run whose dependencies have ended, until none is left."""
        mine = {t["taskKey"]: t for t in self.tasks.values() if t["runId"] == run["runId"]}
        while left := [t for t in mine.values() if t["status"] not in TERMINAL]:
            for task in left:
                needs = [mine[key]["status"] for key in task.get("dependsOn", [])]
                if any(status in ("FAILED", "CANCELLED") for status in needs):
                    error = {"code": "dependency_failed", "message": "a dependency failed"}
                    self._end(run, task, "FAILED", error)
                elif all(status == "SUCCEEDED" for status in needs):
                    await self._execute(run, task)

    async def _execute(self, run: dict[str, Any], task: dict[str, Any]) -> None:
        shell = str((task["definition"].get("input") or {}).get("shell", ""))
        task.update(status="RUNNING", startedAt=now())
        self.emit(
            "task.running", run, task, attempt=1, sandboxId="sandbox_1", assignmentId="assignment_1"
        )
        self._settle(run)
        if shell.startswith("hold"):
            while not self.hold.is_set() and not task.get("cancelRequested"):
                await asyncio.sleep(0.01)
        lines = self.logs.setdefault(task["taskId"], [])
        for text in shell.removeprefix("echo ").split("\\n"):
            lines.append({
                "cursor": f"l{len(lines) + 1}", "at": now(), "channel": "stdout", "text": text,
                "assignmentId": "assignment_1",
            })  # fmt: skip
        await asyncio.sleep(0)
        if task.get("cancelRequested"):
            self._end(run, task, "CANCELLED", None)
        elif shell.startswith("exit"):
            message = f"the command ended with exit code {shell[5:]}"
            self._end(run, task, "FAILED", {"code": "command_failed", "message": message})
        else:
            self._end(run, task, "SUCCEEDED", None)

    def _end(self, run: dict[str, Any], task: dict[str, Any], status: str, error: Any) -> None:
        task.update(status=status, finishedAt=now())
        if error:
            task["error"] = error
        self.emit(f"task.{status.lower()}", run, task, **({"error": error} if error else {}))
        self._settle(run)

    # Routes

    def _app(self) -> Starlette:
        table = {
            ("GET", "/v1/me"): self._me,
            ("POST", "/v1/auth/device/code"): self._device_code,
            ("POST", "/v1/auth/device/token"): self._device_token,
            ("POST", "/v1/auth/sign-out"): self._sign_out,
            ("GET", "/v1/auth/sessions"): self._sessions,
            ("DELETE", "/v1/auth/sessions/{session}"): self._end_session,
            ("GET", "/v1/auth/keys"): self._list_keys,
            ("POST", "/v1/auth/keys"): self._create_key,
            ("DELETE", "/v1/auth/keys/{key}"): self._revoke_key,
            ("GET", "/v1/projects"): self._list_projects,
            ("GET", "/v1/projects/{project}"): self._get_project,
            ("PUT", "/v1/projects/{project}"): self._put_project,
            ("GET", "/v1/runs"): self._list_runs,
            ("GET", "/v1/runs/{run}"): self._get_run,
            ("PUT", "/v1/runs/{run}"): self._put_run,
            ("GET", "/v1/runs/{run}/metrics"): self._metrics,
            ("POST", "/v1/runs/{run}/graph"): self._graph,
            ("POST", "/v1/runs/{run}/retry"): self._get_run,
            ("POST", "/v1/runs/{run}/cancel"): self._cancel_run,
            ("POST", "/v1/runs/{run}/close"): self._close_run,
            ("GET", "/v1/runs/{run}/tasks"): self._list_tasks,
            ("GET", "/v1/runs/{run}/tasks/{task}"): self._get_task_by_key,
            ("PUT", "/v1/runs/{run}/tasks/{task}"): self._put_task,
            ("POST", "/v1/runs/{run}/tasks/admit"): self._admit,
            ("GET", "/v1/tasks/{task}"): self._get_task,
            ("GET", "/v1/tasks/{task}/result"): self._result,
            ("GET", "/v1/tasks/{task}/outputs/{output}"): self._output,
            ("GET", "/v1/tasks/{task}/logs"): self._get_logs,
            ("GET", "/v1/hosts"): self._hosts,
            ("POST", "/v1/hosts/setup"): self._no_hosts,
            ("GET", "/v1/hosts/{host}/pools"): self._pools,
            ("GET", "/v1/sandboxes"): self._sandboxes,
        }
        routes = [
            Route(path, self._guarded(function), methods=[method])
            for (method, path), function in table.items()
        ]
        routes.append(Route("/v1/events", self._stream, methods=["GET"]))
        return Starlette(routes=routes)

    def _guarded(self, function: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            self.requests.append((request.method, request.url.path))
            self.keys.append(request.headers.get("idempotency-key"))
            if self.fail:
                status = self.fail.pop(0)
                body = {"error": "database_unavailable", "message": "away"}
                return answer(body, status, {"retry-after": "0.01"})
            token = request.headers.get("authorization", "").removeprefix("Bearer ")
            if token not in self.valid and "/auth/device/" not in request.url.path:
                return answer(
                    {"error": "unauthorized", "message": "who are you?", "fix": "sign in"}, 401
                )
            try:
                return answer(await function(request))
            except ApiError as error:
                return answer(error.body(), error.status)

        return endpoint

    async def _me(self, _: Request) -> Any:
        return {"userId": "user_1", "name": "Owner", "tokenFamily": "user", "serverVersion": "0"}

    async def _device_code(self, request: Request) -> Any:
        self.bodies.append(await request.json())
        self.devices += 1
        page = f"{self.url}/device"
        return {
            "deviceCode": f"device.{self.devices}", "userCode": "BCDF-GHJK", "verificationUri": page,
            "verificationUriComplete": f"{page}?code=BCDF-GHJK", "expiresIn": 600, "interval": 0,
        }  # fmt: skip

    async def _device_token(self, request: Request) -> Any:
        assert (await request.json())["deviceCode"] == f"device.{self.devices}"
        if self.polls:
            raise ApiError(self.polls.pop(0), "not so", "as it says")
        token = f"flakes_user_device_{self.devices}"
        self.valid.add(token)
        me = await self._me(request) | {"email": "ada@example.com", "sessionKind": "cli"}
        return {"accessToken": token, "expiresIn": 86_400, "me": me}

    async def _sign_out(self, request: Request) -> Any:
        self.valid.discard(request.headers["authorization"].removeprefix("Bearer "))
        return {"sessionId": "token_1"}

    async def _sessions(self, _: Request) -> Any:
        session = {
            "sessionId": "token_1", "kind": "cli", "client": "flakes on bench\x1b[31m", "address": "::1",
            "createdAt": now(), "lastUsedAt": None, "expiresAt": now(), "current": True,
        }  # fmt: skip
        return {"sessions": [session]}

    async def _end_session(self, request: Request) -> Any:
        return {"sessionId": request.path_params["session"]}

    async def _list_keys(self, _: Request) -> Any:
        return {"keys": list(self.api_keys.values())}

    async def _create_key(self, request: Request) -> Any:
        body = await request.json()
        self.bodies.append(body)
        key = {
            "keyId": f"token_k{len(self.api_keys)}", "name": body["name"], "scope": body["scope"],
            "createdAt": now(), "lastUsedAt": None, "expiresAt": now() if "expiresInDays" in body else None,
        }  # fmt: skip
        self.api_keys[key["keyId"]] = key
        return {"key": key, "rawKey": "flakes_user_key"}

    async def _revoke_key(self, request: Request) -> Any:
        return found(self.api_keys, request.path_params["key"], "key")

    async def _list_projects(self, _: Request) -> Any:
        return {"projects": list(self.projects.values())}

    async def _get_project(self, request: Request) -> Any:
        return found(self.projects, request.path_params["project"], "project")

    async def _put_project(self, request: Request) -> Any:
        key, body = request.path_params["project"], await request.json()
        return self.projects.setdefault(key, {
            "projectId": f"project_{key}", "projectKey": key, "name": body["name"],
            "status": "active", "metadata": {}, "createdAt": now(), "updatedAt": now(),
        })  # fmt: skip

    def _run(self, request: Request) -> dict[str, Any]:
        name = request.path_params["run"]
        for run in self.runs.values():
            if name in (run["runId"], run["runKey"]):
                return run
        raise not_found("run")

    def _task(self, request: Request) -> dict[str, Any]:
        return found(self.tasks, request.path_params["task"], "task")

    async def _list_runs(self, _: Request) -> Any:
        return {"runs": list(self.runs.values())[::-1]}

    async def _get_run(self, request: Request) -> Any:
        return self._run(request)

    def _make_run(self, key: str, name: str, closed: bool, metadata: Any) -> dict[str, Any]:
        run = {
            "runId": f"run_{key}", "runKey": key, "name": name, "projectId": "project_1",
            "projectKey": "default", "state": "CREATED", "closed": closed, "taskCounts": {},
            "metadata": metadata, "createdAt": now(), "updatedAt": now(),
        }  # fmt: skip
        self.runs[key] = run
        self.emit("run.created", run)
        return run

    async def _put_run(self, request: Request) -> Any:
        key, body = request.path_params["run"], await request.json()
        return self.runs.get(key) or self._make_run(key, body["name"], False, {})

    def _make_task(self, run: dict[str, Any], body: dict[str, Any], status: str) -> dict[str, Any]:
        key = body["taskKey"]
        task = {
            "taskId": f"task_{run['runKey']}_{key}", "taskKey": key, "runId": run["runId"],
            "projectId": "project_1", "title": body["title"], "adapter": body["adapter"],
            "status": status, "dependsOn": body.get("dependsOn", []), "createdAt": now(),
            "runKey": run["runKey"], "projectKey": "default", "definition": body,
        }  # fmt: skip
        self.tasks[task["taskId"]] = task
        return task

    def _start(self, run: dict[str, Any]) -> None:
        self._settle(run)
        work = asyncio.ensure_future(self._work(run))
        self._background.add(work)
        work.add_done_callback(self._background.discard)

    async def _graph(self, request: Request) -> Any:
        content = await request.body()
        try:
            codec.decode(content, GraphPost)
        except codec.BadBody as error:
            raise ApiError("invalid_request", str(error), issues=[]) from error
        key, body = request.path_params["run"], await request.json()
        self.bodies.append(body)
        run = self._make_run(key, body["name"], body.get("close", False), body.get("metadata", {}))
        for task in body["tasks"]:
            status = "BLOCKED" if task.get("dependsOn") else "QUEUED"
            self.emit("task.admitted", run, self._make_task(run, task, status), status=status)
        reply = {"run": dict(run), "tasks": [dict(t) for t in self._of(run)]}
        self._start(run)
        return reply

    def _of(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        return [t for t in self.tasks.values() if t["runId"] == run["runId"]]

    async def _put_task(self, request: Request) -> Any:
        content = await request.body()
        codec.decode(content, TaskDefinition)
        body = await request.json() | {"taskKey": request.path_params["task"]}
        self.bodies.append(body)
        return self._make_task(self._run(request), body, "SAVED")

    async def _admit(self, request: Request) -> Any:
        run = self._run(request)
        for task in self._of(run):
            task["status"] = "QUEUED"
            self.emit("task.admitted", run, task, status="QUEUED")
        self._start(run)
        return {"run": run, "tasks": self._of(run)}

    async def _cancel_run(self, request: Request) -> Any:
        run = self._run(request)
        run["cancelRequested"] = run["closed"] = True
        for task in self._of(run):
            task["cancelRequested"] = True
        self.emit("run.cancel_requested", run)
        return run

    async def _close_run(self, request: Request) -> Any:
        run = self._run(request)
        run["closed"] = True
        if run["state"] in RUN_TERMINAL:
            run["completedAt"] = now()
        self.emit("run.closed", run)
        return run

    async def _metrics(self, request: Request) -> Any:
        run, none = self._run(request), {"count": 0}
        return {
            "runId": run["runId"], "runKey": run["runKey"], "state": run["state"], "measuredAt": now(), "wallMs": 1.0,
            "queue": none, "assignment": none, "run": none, "wait": none,
            "success": {"tasks": 0, "succeeded": 0, "failed": 0, "cancelled": 0, "live": 0}, "attempts": 0,
            "retries": 0, "infrastructureLosses": 0, "offersNotTaken": 0, "declined": 0, "parallelism": {},
        }  # fmt: skip

    async def _no_hosts(self, _: Request) -> Any:
        raise not_found("host")

    async def _list_tasks(self, request: Request) -> Any:
        return {"tasks": self._of(self._run(request))}

    async def _get_task_by_key(self, request: Request) -> Any:
        run = self._run(request)
        return found(self.tasks, f"task_{run['runKey']}_{request.path_params['task']}", "task")

    async def _get_task(self, request: Request) -> Any:
        task = dict(self._task(request))
        if request.query_params.get("explain"):
            task["explanation"] = {
                "code": "no_host_online", "sentence": "No host is online.",
                "evidence": {"hosts": 0}, "nextAction": "Run `flakes up`.",
            }  # fmt: skip
        return task

    async def _result(self, request: Request) -> Any:
        task = self._task(request)
        if task["status"] not in TERMINAL:
            raise ApiError("result_not_ready", "not yet")
        text = "\n".join(each["text"] for each in self.logs.get(task["taskId"], []))
        return {"taskId": task["taskId"], "status": task["status"], "text": text}

    async def _output(self, request: Request) -> Any:
        self._task(request)
        return b"\x1b[31mraw\xff"

    async def _get_logs(self, request: Request) -> Any:
        lines = self.logs.get(self._task(request)["taskId"], [])
        query = request.query_params
        after = query.get("after")
        if after:
            lines = lines[int(after[1:]) :]
        if query.get("tail"):
            lines = lines[-int(query["tail"]) :]
        lines = lines[: int(query.get("limit", "100"))]
        return {"logs": lines, "nextCursor": lines[-1]["cursor"] if lines else after}

    async def _hosts(self, _: Request) -> Any:
        host = {
            "hostId": "host_1", "name": "laptop\x1b]0;owned\x07", "status": "online", "autoBind": True,
            "createdAt": now(), "updatedAt": now(),
        }  # fmt: skip
        return {"hosts": [host]}

    async def _pools(self, _: Request) -> Any:
        return {"hostPools": []}

    async def _sandboxes(self, _: Request) -> Any:
        return {"sandboxes": []}

    async def _stream(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return answer({"error": "unauthorized", "message": "no"}, 401)
        if self.fail:
            return answer({"error": "database_unavailable", "message": "away"}, self.fail.pop(0))
        last = request.headers.get("last-event-id")
        self.streams.append(last)
        query = request.query_params
        types = set(filter(None, query.get("types", "").split(",")))
        room = self.cut.pop(0) if self.cut else None
        position = int(last[1:]) if last else 0

        async def frames() -> Any:
            nonlocal position, room
            yield b": hello\n\n"
            while not self._server.should_exit:
                changed = self._changed
                while position < len(self.events):
                    event = self.events[position]
                    position += 1
                    if types and event["type"] not in types:
                        continue
                    if query.get("runId") not in (None, event["runId"]):
                        continue
                    if query.get("taskId") not in (None, event.get("taskId")):
                        continue
                    data = codec.encode(event)
                    frame = b"id: %s\nevent: %s\ndata: %s\n\n" % (
                        event["cursor"].encode(), event["type"].encode(), data,
                    )  # fmt: skip
                    if room is not None and len(frame) > room:
                        yield frame[:room]
                        # A clean end in the middle of a frame: the worst a network can do.
                        return
                    room = None if room is None else room - len(frame)
                    yield frame
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), 0.05)

        return StreamingResponse(frames(), media_type="text/event-stream")


def now() -> str:
    return datetime.now(UTC).isoformat()


def found(things: dict[str, dict[str, Any]], key: str, what: str) -> dict[str, Any]:
    if key not in things:
        raise not_found(what)
    return things[key]


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = body if isinstance(body, bytes) else codec.encode(body)
    return Response(content, status, headers, "application/json")
