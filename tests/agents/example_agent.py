"""A small agent that speaks ACP, written with the protocol's own library: what our client sends is checked by it.

It works with one tool, `bash`, and those of MCP servers over HTTP, by a model with the chat API at
$EXAMPLE_MODEL. It asks before every command, brings its sessions back with `session/load`, says all of them
again when it does, and knows no steering.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import acp
from acp import schema

SESSIONS = Path(os.environ.get("XDG_STATE_HOME", "/nonexistent")) / "example-agent"
VERSION = os.environ.get("EXAMPLE_VERSION", "1.0")
BASH = {
    "name": "bash", "description": "Runs a command.",
    "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
}  # fmt: skip


class ExampleAgent(acp.Agent):
    """One connection, any number of sessions."""

    def on_connect(self, conn: Any) -> None:
        self._client = conn
        self._messages: dict[str, list[dict[str, Any]]] = {}
        self._tools: dict[str, dict[str, tuple[dict[str, Any], Any]]] = {}
        self._where: dict[str, str] = {}
        self._turn: asyncio.Task[Any] | None = None

    async def initialize(self, protocol_version: int, **_: Any) -> schema.InitializeResponse:
        if os.environ.get("EXAMPLE_OLD"):
            return schema.InitializeResponse(protocol_version=0)
        capabilities = schema.AgentCapabilities(
            load_session=True, mcp_capabilities=schema.McpCapabilities(http=True)
        )
        info = schema.Implementation(name="example-agent", version=VERSION)
        return schema.InitializeResponse(
            protocol_version=1, agent_capabilities=capabilities, agent_info=info, auth_methods=[]
        )

    async def new_session(self, cwd: str, mcp_servers: Any = None, **_: Any) -> schema.NewSessionResponse:
        if os.environ.get("EXAMPLE_SIGNED_OUT"):
            raise acp.RequestError.auth_required()
        session = uuid.uuid4().hex
        self._messages[session] = []
        await self._open(session, cwd, mcp_servers)
        choice = schema.SessionConfigOptionSelect(
            id="model", name="Model", category="model", type="select", current_value="one",
            options=[schema.SessionConfigSelectOption(value=each, name=each) for each in ("one", "two")],
        )  # fmt: skip
        return schema.NewSessionResponse(session_id=session, config_options=[choice])

    async def load_session(
        self, cwd: str, session_id: str, mcp_servers: Any = None, **_: Any
    ) -> schema.LoadSessionResponse:
        try:
            self._messages[session_id] = json.loads((SESSIONS / session_id).read_text())
        except OSError:
            raise acp.RequestError.resource_not_found(session_id) from None
        await self._open(session_id, cwd, mcp_servers)
        for message in list(self._messages[session_id]):
            for call in message.get("tool_calls") or []:
                self._answer(session_id, call["id"], "interrupted")
            if message.get("content"):
                await self._say(session_id, message["content"])
        return schema.LoadSessionResponse()

    async def set_config_option(self, **_: Any) -> schema.SetSessionConfigOptionResponse:
        return schema.SetSessionConfigOptionResponse(config_options=[])

    async def prompt(self, session_id: str, prompt: Any, **_: Any) -> schema.PromptResponse:
        text = "\n".join(block.text for block in prompt)
        self._messages[session_id].append({"role": "user", "content": text})
        self._turn = asyncio.create_task(self._work(session_id))
        try:
            usage = await self._turn
        except asyncio.CancelledError:
            return schema.PromptResponse(stop_reason="cancelled")
        finally:
            self._keep(session_id)
        return schema.PromptResponse(stop_reason="end_turn", usage=usage)

    async def cancel(self, session_id: str, **_: Any) -> None:
        if self._turn is not None:
            self._turn.cancel()

    # ---- a turn

    async def _work(self, session: str) -> schema.Usage:
        spent = {"prompt_tokens": 0, "completion_tokens": 0, "cached": 0}
        while True:
            answer = await asyncio.to_thread(self._model, session)
            for name in ("prompt_tokens", "completion_tokens"):
                spent[name] += answer["usage"][name]
            spent["cached"] += answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            message = answer["choices"][0]["message"]
            self._messages[session].append(message)
            self._keep(session)
            for call in message.get("tool_calls") or []:
                self._answer(session, call["id"], await self._tool(session, call))
            if not message.get("tool_calls"):
                middle = len(message["content"]) // 2
                for piece in (message["content"][:middle], message["content"][middle:]):
                    await self._say(session, piece)
                # Its input counts what was cached.
                return schema.Usage(
                    input_tokens=spent["prompt_tokens"], output_tokens=spent["completion_tokens"],
                    cached_read_tokens=spent["cached"], total_tokens=spent["prompt_tokens"] + spent["completion_tokens"],
                )  # fmt: skip

    async def _tool(self, session: str, call: dict[str, Any]) -> str:
        name, given = call["function"]["name"], json.loads(call["function"]["arguments"])
        own = name == "bash"
        about: dict[str, Any] = {
            "tool_call_id": call["id"], "title": given["command"] if own else f"flakes/{name}",
            "kind": "execute" if own else "other", "raw_input": given,
        }  # fmt: skip
        await self._client.session_update(
            session, schema.ToolCallStart(session_update="tool_call", status="pending", **about)
        )
        if own:
            options = [
                schema.PermissionOption(option_id="yes", name="Yes", kind="allow_once"),
                schema.PermissionOption(option_id="no", name="No", kind="reject_once"),
            ]
            answer = await self._client.request_permission(session, schema.ToolCallUpdate(**about), options)
            if getattr(answer.outcome, "option_id", "no") != "yes":
                return await self._end(session, call["id"], "not allowed", good=False)
            return await self._end(session, call["id"], *await self._bash(session, given["command"]))
        answer = await asyncio.to_thread(self._mcp, session, name, given)
        text = "\n".join(part["text"] for part in answer["content"])
        return await self._end(session, call["id"], text, good=not answer.get("isError"))

    async def _bash(self, session: str, command: str) -> tuple[str, bool]:
        process = await asyncio.create_subprocess_shell(
            command, cwd=self._where[session], stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        return output.decode(), process.returncode == 0

    async def _end(self, session: str, number: str, text: str, good: bool) -> str:
        await self._client.session_update(session, schema.ToolCallProgress(
            session_update="tool_call_update", tool_call_id=number,
            status="completed" if good else "failed", content=[acp.tool_content(acp.text_block(text))],
        ))  # fmt: skip
        return text

    async def _say(self, session: str, text: str) -> None:
        await self._client.session_update(session, acp.update_agent_message_text(text))

    # ---- what is behind it

    def _answer(self, session: str, number: str, output: str) -> None:
        """The end of a tool call, if it has none."""
        known = [each.get("tool_call_id") for each in self._messages[session]]
        if number not in known:
            message = {"role": "tool", "tool_call_id": number, "content": output}
            self._messages[session].append(message)
            self._keep(session)

    async def _open(self, session: str, cwd: str, servers: Any) -> None:
        self._where[session] = cwd
        self._tools[session] = {}
        for server in servers or []:
            found = await asyncio.to_thread(_rpc, server, "tools/list", {})
            for tool in found["tools"]:
                self._tools[session][tool["name"]] = (tool, server)

    def _mcp(self, session: str, name: str, given: Any) -> dict[str, Any]:
        _, server = self._tools[session][name]
        return _rpc(server, "tools/call", {"name": name, "arguments": given})

    def _model(self, session: str) -> dict[str, Any]:
        others = [
            {"name": name, "description": "", "parameters": tool["inputSchema"]}
            for name, (tool, _) in self._tools[session].items()
        ]  # fmt: skip
        body = {
            "model": "one", "messages": self._messages[session],
            "tools": [{"type": "function", "function": each} for each in (BASH, *others)],
        }  # fmt: skip
        url = os.environ["EXAMPLE_MODEL"] + "/chat/completions"
        for again in (True, False):
            try:
                return _post(url, body, {})
            except urllib.error.HTTPError as error:
                if error.code < 500 or not again:
                    said = json.loads(error.read())["error"]["message"]
                    raise acp.RequestError(-32603, f"the model failed: {said}") from error
        raise AssertionError

    def _keep(self, session: str) -> None:
        SESSIONS.mkdir(parents=True, exist_ok=True)
        draft = SESSIONS / f".{session}"
        draft.write_text(json.dumps(self._messages[session]))
        draft.replace(SESSIONS / session)


def _rpc(server: Any, method: str, params: dict[str, Any]) -> dict[str, Any]:
    headers = {each.name: each.value for each in server.headers}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return _post(server.url, body, headers | {"accept": "application/json, text/event-stream"})["result"]


def _post(url: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"} | headers
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    if "--version" in sys.argv:
        sys.stdout.write(f"{VERSION}\n")
    else:
        asyncio.run(acp.run_agent(ExampleAgent()))
