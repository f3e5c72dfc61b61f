"""The endpoint of tools, over real sockets: who is let in, what is offered, and what is refused."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flakes.agents.base import Tools
from flakes.sandbox.tools import mcp
from flakes.sandbox.tools.mcp import PATH, McpEndpoint, offered
from flakes.wire.operations import GROUPS, LOCAL, OPERATIONS, PROMOTE, SPAWN

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def endpoint(*grants: str) -> AsyncIterator[tuple[McpEndpoint, Tools, list[tuple[str, Any]]]]:
    asked: list[tuple[str, Any]] = []

    async def perform(name: str, body: bytes) -> tuple[int, bytes]:
        asked.append((name, json.loads(body)))
        return 200, b'{"version":3}'

    served = McpEndpoint()
    try:
        yield served, await served.add(grants, perform), asked
    finally:
        await served.close()


async def send(port: int, head: str, body: bytes = b"") -> tuple[int, Any]:
    """Status and JSON body (None when there is none) of one request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    first, _, text = answer.partition(b"\r\n\r\n")
    return int(first.split()[1]), json.loads(text) if text.strip() else None


def port_of(tools: Tools) -> int:
    return int(tools.url.removesuffix(PATH).rpartition(":")[2])


async def call(tools: Tools, method: str, params: Any = None) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    status, answer = await send(
        port_of(tools), f"POST {PATH} HTTP/1.1\r\nAuthorization: Bearer {tools.bearer}", body
    )
    assert status == 200
    return answer


def test_an_agent_is_offered_what_its_grants_allow_and_nothing_of_programs_or_the_sandbox() -> None:
    everything = {**OPERATIONS, **LOCAL}
    all_tools = {name for name, _ in offered([SPAWN, GROUPS, PROMOTE]).values()}
    assert {"journal.read", "journal.append", "budget.reserve", "budget.extend"} <= set(everything) - all_tools
    assert {name for name, _ in offered([]).values()} == {
        name for name in all_tools if everything[name].grant is None
    }


async def test_a_tool_is_called_with_its_arguments() -> None:
    async with endpoint() as (_, tools, asked):
        greeting = await call(tools, "initialize", {"protocolVersion": "2025-06-18"})
        assert greeting["result"]["protocolVersion"] == "2025-06-18"
        names = {tool["name"] for tool in (await call(tools, "tools/list"))["result"]["tools"]}
        assert "workpad_save" in names
        save = {"name": "workpad_save", "arguments": {"bodyMarkdown": "x", "baseVersion": 2}}
        answer = await call(tools, "tools/call", save)
        assert answer["result"] == {"content": [{"type": "text", "text": '{"version":3}'}], "isError": False}
        assert asked == [("workpad.save", save["arguments"])]


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("tools/call", {"name": "journal_append", "arguments": {}}, -32602),
        ("tools/call", {"name": "tasks_spawn", "arguments": {}}, -32602),
        ("tools/call", ["workpad_read"], -32602),
        ("resources/list", None, -32601),
    ],
)
async def test_what_is_not_offered_is_an_error(method: str, params: Any, code: int) -> None:
    async with endpoint() as (_, tools, asked):
        assert (await call(tools, method, params))["error"]["code"] == code
        assert asked == []


async def test_only_the_bearer_of_a_running_task_is_let_in() -> None:
    async with endpoint() as (served, tools, asked):
        port = port_of(tools)
        own = f"Authorization: Bearer {tools.bearer}"
        ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        assert (await send(port, f"POST {PATH} HTTP/1.1\r\n{own}", ping))[0] == 200
        assert (await send(port, f"POST {PATH} HTTP/1.1", ping))[0] == 401
        assert (await send(port, f"POST {PATH} HTTP/1.1\r\nAuthorization: Bearer x", ping))[0] == 401
        assert (await send(port, f"POST /other HTTP/1.1\r\n{own}", ping))[0] == 404
        assert (await send(port, f"POST {PATH} HTTP/1.1\r\n{own}\r\nOrigin: http://a", ping))[0] == 403
        assert (await send(port, f"GET {PATH} HTTP/1.1\r\n{own}"))[0] == 405
        assert (await send(port, f"POST {PATH} HTTP/1.1\r\n{own}", b"{"))[0] == 400
        served.remove(tools)
        assert (await send(port, f"POST {PATH} HTTP/1.1\r\n{own}", ping))[0] == 401
        assert asked == []


async def test_a_task_that_takes_every_connection_of_its_own_socket_takes_none_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mcp, "CONNECTIONS_MAX", 3)
    async with endpoint() as (served, tools, _):
        own = socket.create_server(("127.0.0.1", 0))
        server = await served.serve(own)
        taken = [await asyncio.open_connection(*own.getsockname()) for _ in range(5)]
        try:
            for reader, _ in taken[3:]:  # more than its share: closed at once
                assert await asyncio.wait_for(reader.read(), 30) == b""
            assert (await call(tools, "ping"))["result"] == {}
        finally:
            for _, writer in taken:
                writer.close()
            server.close()


async def test_what_is_not_http_is_closed() -> None:
    async with endpoint() as (_, tools, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(tools))
        writer.write(f"POST {PATH} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
