"""JSON-RPC with one agent process, both ways: our requests, its notifications, and its requests to us."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from flakes.agents.base import AgentError, Host, Process
from flakes.agents.channel import Channel

Notified = Callable[[str, dict[str, Any], bytes], Awaitable[None]]
Requested = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


class CallError(Exception):
    """The agent answered a request with an error."""

    def __init__(self, method: str, error: Mapping[str, Any]) -> None:
        self.message = str(error.get("message"))
        self.data = error.get("data")
        self.code = error.get("code")
        super().__init__(f"{method}: {self.message}")


class JsonRpc:
    """`notified` is told of everything that needs no answer, in order; `requested` answers the agent, and may
    take its time. `marked`: messages say that they are JSON-RPC 2.0."""

    def __init__(
        self,
        process: Process,
        host: Host,
        name: str,
        *,
        notified: Notified,
        requested: Requested,
        marked: bool,
    ) -> None:
        self._mark = {"jsonrpc": "2.0"} if marked else {}
        self._notified, self._requested = notified, requested
        self._numbers = itertools.count(1)
        self.channel = Channel(process, host, self._handle, name)

    async def call(
        self, method: str, params: Mapping[str, Any], timeout_s: float | None = None
    ) -> dict[str, Any]:
        """The result; raises `CallError`, or `AgentError` when there will be none."""
        number = next(self._numbers)
        message = {**self._mark, "id": number, "method": method, "params": params}
        answer = await self.channel.ask(str(number), message, timeout_s)
        if "error" in answer:
            raise CallError(method, answer["error"])
        return answer.get("result") or {}

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Tell, and expect nothing."""
        message = {**self._mark, "method": method}
        await self.channel.send(message if params is None else message | {"params": params})

    async def _handle(self, message: dict[str, Any], raw: bytes) -> None:
        method = message.get("method")
        if method is None:
            self.channel.answer(str(message.get("id")), message)
        elif "id" in message:
            self.channel.aside(self._reply(message["id"], str(method), message.get("params") or {}))
        else:
            await self._notified(str(method), message.get("params") or {}, raw)

    async def _reply(self, number: Any, method: str, params: dict[str, Any]) -> None:
        try:
            answer: dict[str, Any] = {"result": await self._requested(method, params)}
        except AgentError as error:
            answer = {"error": {"code": -32601, "message": error.message}}
        await self.channel.send({**self._mark, "id": number, **answer})
