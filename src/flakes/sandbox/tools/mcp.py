"""The operations of running tasks as MCP tools: one endpoint a daemon, one bearer a task.

Streamable HTTP as the specification has it, and of it what a server of plain tools needs: JSON-RPC requests
by POST, each answered by one JSON body (`initialize`, `ping`, `tools/list`, `tools/call`; notifications by
202), no stream of our own (GET is 405), no sessions. It listens on loopback only, and where a task has a
loopback of its own, on that; a bearer opens one task's tools and nothing else, from the task's start to its end. A tool that is refused answers as a tool
error, in the words that the `flakes` command would print.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog

from flakes import __version__
from flakes.agents.base import Tools
from flakes.core.limits import KIB
from flakes.wire.codec import encode
from flakes.wire.operations import LOCAL, OPERATIONS, Operation

log = structlog.get_logger(__name__)

PATH: Final = "/mcp"
VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Of the specification, newest first; the first is what a client of an unknown one is offered."""
HEAD_BYTES_MAX: Final = 32 * KIB
HEAD_PATIENCE_S: Final = 60.0
CONNECTIONS_MAX: Final = 512
"""At once on one socket: a task with a loopback of its own takes none from others."""

Perform = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]
"""Does an operation of one task: its name and body; status and body of the answer."""


def offered(grants: Collection[str]) -> dict[str, tuple[str, Operation]]:
    """The tools of a task with these grants, by tool name: the operation's name, and the operation."""
    return {
        name.replace(".", "_"): (name, operation)
        for name, operation in {**OPERATIONS, **LOCAL}.items()
        if (operation.grant is None or operation.grant in grants) and operation.tool
    }


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """The JSON Schema of a request, whole: clients differ in what they make of references."""
    (schema,), definitions = msgspec.json.schema_components([kind], ref_template="{name}")
    whole = _inlined(schema, definitions)
    whole.setdefault("type", "object")
    whole.setdefault("properties", {})
    return whole


@dataclass(frozen=True, slots=True)
class _Task:
    tools: dict[str, tuple[str, Operation]]
    perform: Perform


class McpEndpoint:
    """See the module. It listens from the first task on."""

    def __init__(self) -> None:
        self._tasks: dict[str, _Task] = {}
        self._server: asyncio.Server | None = None
        self._serving: defaultdict[str, set[asyncio.Task[Any]]] = defaultdict(set)
        self._opening = asyncio.Lock()
        self._url = ""

    async def add(self, grants: Collection[str], perform: Perform) -> Tools:
        """Offer a task its tools; raises `OSError` when nothing can listen."""
        async with self._opening:
            if self._server is None:
                self._server = await asyncio.start_server(
                    partial(self._serve, "shared"), "127.0.0.1", 0, limit=HEAD_BYTES_MAX
                )
                port = self._server.sockets[0].getsockname()[1]
                self._url = f"http://127.0.0.1:{port}{PATH}"
        bearer = secrets.token_urlsafe(32)
        self._tasks[bearer] = _Task(offered(grants), perform)
        return Tools(self._url, bearer)

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Answer on a socket that listens already, too; takes it over. Whoever called closes the server."""
        door = secrets.token_hex(4)
        return await asyncio.start_server(partial(self._serve, door), sock=listener, limit=HEAD_BYTES_MAX)

    def remove(self, tools: Tools) -> None:
        """The bearer opens nothing from here on."""
        self._tasks.pop(tools.bearer, None)

    async def close(self) -> None:
        """Stop listening, drop what is under way."""
        if self._server is not None:
            self._server.close()
        serving = [task for tasks in self._serving.values() for task in tasks]
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)

    # ---- HTTP

    async def _serve(
        self, door: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving = self._serving[door]
        serving.add(task)
        try:
            while len(serving) <= CONNECTIONS_MAX and await self._exchange(reader, writer):
                pass
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # whoever asked has gone, or never asked, or does not speak HTTP
        except asyncio.CancelledError:
            pass
        except Exception:
            log.exception("mcp.failed")
        finally:
            serving.discard(task)
            if not serving:
                self._serving.pop(door, None)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection stays open."""
        async with asyncio.timeout(HEAD_PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
        method, _, rest = first.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        body = await self._body(reader, headers)
        if body is None:
            await _send(writer, 413, {"error": "the request is too large, or of unknown length"})
            return False
        task = self._of(headers.get("authorization", ""))
        if path != PATH:
            await _send(writer, 404, {"error": f"the endpoint is {PATH}"})
        elif "origin" in headers:
            await _send(writer, 403, {"error": "not for browsers"})
        elif task is None:
            await _send(writer, 401, {"error": "the bearer is not one of a running task"})
        elif method == "POST":
            status, answer = await self._answer(task, body)
            await _send(writer, status, answer)
        else:
            await _send(writer, 200 if method == "DELETE" else 405, None)
        return headers.get("connection", "").lower() != "close"

    async def _body(self, reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes | None:
        limit = max(operation.body_max_bytes for operation in OPERATIONS.values()) + HEAD_BYTES_MAX
        async with asyncio.timeout(HEAD_PATIENCE_S):
            if headers.get("transfer-encoding", "").lower() == "chunked":
                return await _chunked(reader, limit)
            size = headers.get("content-length", "0")
            if not size.isdigit() or int(size) > limit:
                return None
            return await reader.readexactly(int(size))

    def _of(self, authorization: str) -> _Task | None:
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        for bearer, task in self._tasks.items():
            if hmac.compare_digest(bearer.encode(), given.strip().encode()):
                return task
        return None

    # ---- JSON-RPC

    async def _answer(self, task: _Task, body: bytes) -> tuple[int, Any]:
        try:
            message = json.loads(body)
        except ValueError:
            return 400, _error(None, -32700, "the body is not JSON")
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            return 400, _error(None, -32600, "one request at a time, as an object with a method")
        if "id" not in message:
            return 202, None
        params = message.get("params") or {}
        if not isinstance(params, dict):
            return 200, _error(message["id"], -32602, "params is an object")
        match message["method"]:
            case "initialize":
                result = _greeting(params)
            case "ping":
                result = {}
            case "tools/list":
                result = {"tools": [_tool(name, operation) for name, (_, operation) in task.tools.items()]}
            case "tools/call":
                found = task.tools.get(str(params.get("name")))
                if found is None:
                    return 200, _error(message["id"], -32602, f"there is no tool {params.get('name')!r}")
                result = await _called(task, found[0], params.get("arguments") or {})
            case method:
                return 200, _error(message["id"], -32601, f"no such method: {method}")
        return 200, {"jsonrpc": "2.0", "id": message["id"], "result": result}


def _greeting(params: Mapping[str, Any]) -> dict[str, Any]:
    asked = params.get("protocolVersion")
    return {
        "protocolVersion": asked if asked in VERSIONS else VERSIONS[0],
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "flakes", "version": __version__},
    }


def _tool(name: str, operation: Operation) -> dict[str, Any]:
    return {
        "name": name, "description": operation.summary, "inputSchema": schema_of(operation.request),
    }  # fmt: skip


async def _called(task: _Task, operation: str, arguments: Any) -> dict[str, Any]:
    status, answer = await task.perform(operation, encode(arguments))
    text = answer.decode("utf-8", "replace")
    content: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": status != 200}
    return content


def _error(request_id: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}


async def _chunked(reader: asyncio.StreamReader, limit: int) -> bytes | None:
    parts: list[bytes] = []
    total = 0
    while size := int((await reader.readline()).split(b";")[0].strip() or b"0", 16):
        total += size
        if total > limit:
            return None
        parts.append(await reader.readexactly(size))
        await reader.readline()
    while (await reader.readline()).strip():
        pass
    return b"".join(parts)


async def _send(writer: asyncio.StreamWriter, status: int, value: Any) -> None:
    body = b"" if value is None else json.dumps(value).encode()
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-length: {len(body)}\r\n"
    if body:
        head += "content-type: application/json\r\n"
    if status == 405:
        head += "allow: POST, DELETE\r\n"
    writer.write(head.encode() + b"\r\n" + body)
    await writer.drain()


def _inlined(value: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        if "$ref" in value:
            return _inlined(definitions[value["$ref"]], definitions)
        return {name: _inlined(each, definitions) for name, each in value.items()}
    if isinstance(value, list):
        return [_inlined(each, definitions) for each in value]
    return value
