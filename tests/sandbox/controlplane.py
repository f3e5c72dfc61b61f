"""A stand-in for the server that speaks the sandbox's side of the wire, over a real port.

It keeps what it is told, acknowledges it (or not, as a test asks), and hands out what a test offers. A
daemon under test is a real process with its own state directory.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from flakes.wire.codec import decode, encode
from flakes.wire.errors import ApiError
from flakes.wire.sandbox_stream import (
    PROTOCOL,
    Accepted,
    Ack,
    Assign,
    Assignment,
    Batch,
    Cancel,
    Declined,
    Drain,
    Heartbeat,
    Hello,
    Input,
    InputMessage,
    InputState,
    LogLine,
    LogLines,
    Result,
    TranscriptChunk,
    Upstream,
    Welcome,
)
from flakes.wire.tasks import TaskDefinition
from flakes.wire.transcripts import AgentUsage, EntryBody
from flakes.wire.workspaces import WorkspaceHandle, WorkspacePost

PATIENCE_S = 40.0
TOKEN = "sandbox-token"
SANDBOX_ID = "sandbox_01hzy0000000000000000000"
_numbers = itertools.count(1)


class ControlPlane:
    """Everything the daemon said, and the means to answer."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.hellos: list[Hello] = []
        self.heartbeats = 0
        self.accepted: list[str] = []
        self.declined: dict[str, str] = {}
        self.results: dict[str, Result] = {}
        self.inputs: list[InputState] = []
        self.result_times = 0
        self.lines: dict[str, dict[int, LogLine]] = {}
        self.entries: dict[str, dict[int, EntryBody]] = {}
        """Transcripts, by assignment and number."""
        self.usage: dict[str, AgentUsage] = {}
        self.frame_sizes: list[int] = []
        self.flying_max = 0
        self.seqs: list[int] = []
        self.withhold: tuple[type, ...] = ()
        self.withheld_ids: set[str] | None = None
        self.stale: set[str] = set()
        self.drop: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.large: dict[str, Assignment] = {}
        self.refuse_uploads = 0
        self.fetched: list[str] = []
        """Digests of packs that were fetched."""
        self.stored: dict[str, list[tuple[WorkspacePost, WorkspaceHandle]]] = {}
        """Workspaces by assignment, in order; one that is stored again is there once."""
        self.refuse_workspaces = 0
        self.asked: list[tuple[str, str, Any]] = []
        """(assignment id, operation, body) of every operation that arrived."""
        self.answers: dict[str, tuple[int, Any]] = {}
        """What operations are answered with: status and body, by name; else 200 and ``{}``."""
        self.keys: list[str | None] = []
        """The Idempotency-Key of every operation that arrived."""
        self.refuse_operations = 0
        self.full = False
        """Its disk is, for as long as this holds."""
        self.heartbeat_s = 0.2
        self.window = 1000
        self.connections = 0
        self._sockets: list[WebSocket] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        base = "/v1/sandboxes/{sandbox_id}"
        self._app = Starlette(
            routes=[
                WebSocketRoute(base + "/stream", self._stream),
                Route(base + "/blobs/{digest}", self._put_blob, methods=["PUT"]),
                Route(base + "/blobs/{digest}", self._get_blob, methods=["GET"]),
                Route(base + "/packs/{digest}", self._put_blob, methods=["PUT"]),
                Route(base + "/packs/{digest}", self._get_pack, methods=["GET"]),
                Route(
                    base + "/assignments/{assignment_id}/workspaces",
                    self._store_workspace,
                    methods=["POST"],
                ),
                Route(base + "/assignments/{assignment_id}", self._get_assignment),
                Route(
                    base + "/assignments/{assignment_id}/operations/{name}",
                    self._operate,
                    methods=["POST"],
                ),
            ]
        )
        self._server: uvicorn.Server | None = None

    # ---- its life -----------------------------------------------------------------------------------

    def start(self) -> None:
        config = uvicorn.Config(
            self._app,
            host="127.0.0.1",
            port=self.port,
            log_level="critical",
            ws="websockets-sansio",
            ws_max_size=1 << 20,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(self._server,))
        self._thread.start()
        server = self._server
        self.wait(lambda: server.started, "the control plane to listen")

    def _run(self, server: uvicorn.Server) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await server.serve()

        asyncio.run(serve())

    def stop(self) -> None:
        """Cut every connection and stop listening."""
        if self._server is None:
            return
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._server = None
        self._sockets.clear()

    # ---- what a test says ---------------------------------------------------------------------------

    def say(self, assignment_id: str, *texts: str, mode: Any = "follow_up") -> list[str]:
        """Send messages to an assignment, in one frame; their ids."""
        sent = [
            InputMessage(
                assignment_id=assignment_id, message_id=f"msg_{next(_numbers)}", mode=mode, text=text
            )
            for text in texts
        ]  # fmt: skip
        self.send(Input(messages=sent))
        return [message.message_id for message in sent]

    def states(self, message_id: str) -> list[str]:
        """What the daemon reported of a message, in order."""
        return [told.state for told in self.inputs if told.message_id == message_id]

    def send(self, frame: Assign | Cancel | Drain | Ack | Input | bytes) -> None:
        data = frame if isinstance(frame, bytes) else encode(frame)
        self.wait(lambda: self._sockets, "a connected daemon")
        socket_ = self._sockets[-1]
        future = asyncio.run_coroutine_threadsafe(socket_.send_text(data.decode()), self._loop)
        future.result(PATIENCE_S)

    def offer(self, *assignments: Assignment) -> None:
        self.send(Assign(assignments=list(assignments)))

    def cancel(self, *assignment_ids: str) -> None:
        self.send(Cancel(assignment_ids=list(assignment_ids), reason="asked"))

    def release(self) -> None:
        """Stop withholding and acknowledge everything that came."""
        self.withhold = ()
        self.send(Ack(seq=self.seqs[-1], stale=sorted(self.stale)))

    def wait(self, condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        """Until the condition holds; it is looked at whenever something came in."""
        give_up_s = time.monotonic() + patience_s
        with self.changed:
            while not (value := condition()):
                left_s = give_up_s - time.monotonic()
                assert left_s > 0, f"waited {patience_s} s for {what}"
                self.changed.wait(min(left_s, 0.02))
            return value

    def result(self, assignment_id: str, patience_s: float = PATIENCE_S) -> Result:
        what = f"the result of {assignment_id}"
        return self.wait(lambda: self.results.get(assignment_id), what, patience_s)

    def run(self, definition: dict[str, Any], **more: Any) -> Result:
        """Offer one task and wait for its result."""
        assignment = make(definition, **more)
        self.offer(assignment)
        return self.result(assignment.assignment_id)

    def text(self, assignment_id: str, channel: str = "stdout") -> list[str]:
        lines = self.lines.get(assignment_id, {})
        assert sorted(lines) == list(range(len(lines))), "numbered from 0 without gaps"
        return [lines[n].text for n in sorted(lines) if lines[n].channel == channel]

    def transcript(self, assignment_id: str, *kinds: str) -> list[EntryBody]:
        """The transcript so far, or its entries of these kinds."""
        entries = self.entries.get(assignment_id, {})
        assert sorted(entries) == list(range(len(entries))), "numbered from 0 without gaps"
        return [entries[n] for n in sorted(entries) if not kinds or entries[n].kind in kinds]

    # ---- the wire -----------------------------------------------------------------------------------

    async def _stream(self, ws: WebSocket) -> None:
        if ws.headers.get("authorization") != f"Bearer {TOKEN}":
            await ws.close()
            return
        await ws.accept()
        hello = decode((await ws.receive_text()).encode(), Upstream)
        assert isinstance(hello, Hello)
        welcome = Welcome(
            protocol=PROTOCOL,
            heartbeat_s=self.heartbeat_s,
            window=self.window,
            server_time_ms=time.time_ns() // 1_000_000,
            drop=self.drop,
        )
        await ws.send_text(encode(welcome).decode())
        with self.changed:
            self.hellos.append(hello)
            self.connections += 1
            self._sockets.append(ws)
            self.changed.notify_all()
        acked = 0
        try:
            while True:
                data = (await ws.receive_text()).encode()
                self.frame_sizes.append(len(data))
                frame = decode(data, Upstream)
                with self.changed:
                    if isinstance(frame, Heartbeat):
                        self.heartbeats += 1
                    elif isinstance(frame, Batch):
                        ack = self._apply(frame, acked)
                        if ack is not None:
                            acked = ack.seq
                            await ws.send_text(encode(ack).decode())
                    self.changed.notify_all()
        except WebSocketDisconnect:
            if ws in self._sockets:
                self._sockets.remove(ws)

    def _apply(self, batch: Batch, acked: int) -> Ack | None:
        seq, stale, held_back = None, [], False
        for number, message in enumerate(batch.messages, batch.first_seq):
            assignment_id = message.assignment_id
            self.seqs.append(number)
            self.flying_max = max(self.flying_max, number - acked)
            if assignment_id in self.stale:
                stale.append(assignment_id)
            elif isinstance(message, Accepted):
                self.accepted.append(assignment_id)
            elif isinstance(message, Declined):
                self.declined[assignment_id] = message.reason
            elif isinstance(message, InputState):
                self.inputs.append(message)
            elif isinstance(message, Result):
                self.result_times += 1
                self.results.setdefault(assignment_id, message)
            elif isinstance(message, TranscriptChunk):
                entries = self.entries.setdefault(assignment_id, {})
                for entry_number, entry in enumerate(message.entries, message.first_entry):
                    assert entries.setdefault(entry_number, entry) == entry
                self.usage[assignment_id] = message.usage or self.usage.get(assignment_id, AgentUsage())
            elif isinstance(message, LogLines):
                lines = self.lines.setdefault(assignment_id, {})
                for line_number, line in enumerate(message.lines, message.first_line):
                    assert lines.setdefault(line_number, line) == line
            held_back = held_back or isinstance(message, self.withhold)
            if not held_back:
                seq = number
        return None if seq is None else Ack(seq=seq, stale=stale)

    async def _put_blob(self, request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        if self.full:
            return _storage_full()
        if self.refuse_uploads:
            self.refuse_uploads -= 1
            return Response(status_code=503)
        body = await request.body()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if digest != request.path_params["digest"]:
            return Response("digest_mismatch", status_code=409)
        self.blobs[digest] = body
        return Response(status_code=201)

    async def _get_blob(self, request: Request) -> Response:
        body = self.blobs.get(request.path_params["digest"])
        return Response(body) if body is not None else Response(status_code=404)

    async def _get_pack(self, request: Request) -> Response:
        self.fetched.append(request.path_params["digest"])
        return await self._get_blob(request)

    async def _store_workspace(self, request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        post = decode(await request.body(), WorkspacePost)
        assert all(pack.digest in self.blobs for pack in post.packs)
        if self.refuse_workspaces:
            self.refuse_workspaces -= 1
            return Response(status_code=503)
        with self.changed:
            own = self.stored.setdefault(request.path_params["assignment_id"], [])
            for known, handle in own:
                if (known.commit, known.kind) == (post.commit, post.kind):
                    return Response(encode(handle), 200)
            own.append((post, handle_of(post)))
            self.changed.notify_all()
        return Response(encode(own[-1][1]), 201)

    async def _get_assignment(self, request: Request) -> Response:
        found = self.large.get(request.path_params["assignment_id"])
        return Response(encode(found)) if found else Response(status_code=404)

    async def _operate(self, request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        path = request.path_params
        body = decode(await request.body(), dict[str, Any])
        with self.changed:
            self.asked.append((path["assignment_id"], path["name"], body))
            self.changed.notify_all()
            self.keys.append(request.headers.get("idempotency-key"))
        if self.full:
            return _storage_full()
        if self.refuse_operations:
            self.refuse_operations -= 1
            return Response(status_code=503)
        status, answer = self.answers.get(path["name"], (200, {}))
        answer = answer(body) if callable(answer) else answer
        return Response(encode(answer), status, media_type="application/json")


def _storage_full() -> Response:
    error = ApiError("storage_full", "the disk of the server is full; nothing was changed", "free some space there")
    return Response(encode(error.body()), error.status, media_type="application/json")


class DaemonProcess:
    """The real daemon, as a host starts it."""

    def __init__(
        self,
        control_plane: ControlPlane,
        directory: Path,
        isolation: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.log_path = directory / "daemon.log"
        directory.mkdir(parents=True, exist_ok=True)
        token = directory / "token"
        token.touch(0o600)
        token.write_text(TOKEN)
        values = {
            "controlPlaneUrl": control_plane.url,
            "sandboxId": SANDBOX_ID,
            "credentialFile": str(token),
            "stateDir": str(self.state_dir),
            "adapters": ["command", "noop"],
            "capabilities": ["linux"],
            "maxConcurrency": 8,
        } | config
        self.config_path = directory / "sandbox.toml"
        tables = {"env": {"CONFIGURED": "yes"}}
        if isolation is not None:
            tables["isolation"] = isolation
        tables |= {key: values.pop(key) for key in list(values) if isinstance(values[key], dict)}
        lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
        for name, table in tables.items():
            lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
        self.config_path.write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        env = os.environ | {"SECRET_OF_THE_DAEMON": "1"}
        with self.log_path.open("ab") as log, (self.directory / "stdout").open("ab") as stdout:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flakes.sandbox", "--config", str(self.config_path)],
                stdout=stdout,
                stderr=log,
                env=env,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def terminate(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def exit_code(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    @property
    def log(self) -> str:
        return self.log_path.read_text()


def make(task: dict[str, Any], **more: Any) -> Assignment:
    """An assignment of a command, with ids of its own."""
    number = next(_numbers)
    values = {"title": "a task", "adapter": "command"} | task
    values = {
        "assignment_id": f"assignment_{os.getpid()}x{number}",
        "task_id": f"task_{number}",
        "task_key": f"task-{number}",
        "run_id": "run_1",
        "run_key": "a-run",
        "project_key": "a-project",
        "attempt": 1,
        "definition": decode(encode(values), TaskDefinition),
    } | more
    return Assignment(**values)


def handle_of(post: WorkspacePost) -> WorkspaceHandle:
    """As the server would have stored it."""
    return WorkspaceHandle(
        workspace_id=f"ws_{next(_numbers)}", kind=post.kind, commit=post.commit, tree=post.tree,
        packs=post.packs, base_workspace_id=post.base_workspace_id, paths=post.paths,
        change_count=post.change_count, created_at=datetime.now(UTC),
    )  # fmt: skip


def shell(line: str, **more: Any) -> dict[str, Any]:
    return {"input": {"shell": line}} | more


def living(argument: str) -> list[int]:
    """Processes with that exact word on their command line, zombies left out."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if argument.encode() in words:
                found.append(int(path.name))
    return found


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    (line,) = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    ]
    return int(line.split()[1]) / 1024


def show(measured: str) -> None:
    """A number worth reading; pytest prints it with -s."""
    sys.stdout.write(f"[{measured}] ")


def eventually(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    give_up_s = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < give_up_s, f"waited {patience_s} s for {what}"
        time.sleep(0.01)
    return value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
