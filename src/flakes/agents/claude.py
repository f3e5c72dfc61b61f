"""The `claude` adapter: Claude Code over stream-json, with its control protocol for questions and interrupts.

Every user line has an id of ours, and the agent says what becomes of it (`command_lifecycle`): a turn is over
when its `result` is there and every line given to it is completed or cancelled. A version that says nothing
of lines ends a turn with its result. Usage comes with every message (input) and with the result (output and
cost): what a message left out is told at the end. Whether a turn went well is `is_error` first, then the
subtype: a failed model call is a "success" with an error.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from flakes.agents import credentials
from flakes.agents.base import (
    AgentError,
    AgentEvent,
    Capabilities,
    Check,
    Host,
    Installation,
    Job,
    Question,
    SessionRef,
    TurnResult,
    Usage,
)
from flakes.agents.channel import Channel
from flakes.agents.installed import About, command_of, looked_at, warn_of_version
from flakes.agents.model_errors import model_error
from flakes.agents.options import checked_effort, checked_input, checked_model

ABOUT: Final = About(
    "claude", ("2.1.197", "2.2"), "install it: npm install -g @anthropic-ai/claude-code",
    "run `claude auth login`, or set ANTHROPIC_API_KEY",
    (".credentials.json",), ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_AUTH_TOKEN"),
)  # fmt: skip
EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
OFF: Final = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
    "ENABLE_TOOL_SEARCH": "false", "IS_SANDBOX": "1",
}  # fmt: skip
"""No traffic besides the model's, tools shown whole, and root is no obstacle: the sandbox contains it."""
NOT_OFFERED: Final = "CronCreate,CronDelete,CronList,ScheduleWakeup,EnterWorktree"
"""Tools that would wake the agent by itself, or move it out of its directory."""
START_S: Final = 60.0
_OWN: Final = "mcp__flakes"
_NAMESPACE: Final = uuid.UUID("8b6f4b0e-55a1-4f6c-8ad8-5a2f0b9a3c11")
_READS: Final = frozenset({"Read", "Glob", "Grep", "LS", "NotebookRead", "TaskList", "TaskGet", "ToolSearch"})
_WRITES: Final = {"Write": "file_path", "Edit": "file_path", "MultiEdit": "file_path", "NotebookEdit": "notebook_path"}


class ClaudeDriver:
    """One Claude Code process for all turns of an attempt."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._turn: asyncio.Future[None] | None = None
        self._lines: set[str] = set()
        """Lines of the running turn of which the agent has not said that they are done."""
        self._told_of_lines = False
        self._result: dict[str, Any] | None = None
        self._cost_before = 0.0
        self._told, self._usage = Usage(), Usage()
        self._messages: set[str] = set()
        self._interrupted = False
        self._names: dict[str, str] = {}

    def capabilities(self) -> Capabilities:
        return Capabilities(steer=True, resume=True, usage=True, converses=True)

    async def check(self, installation: Installation) -> Check:
        place = _config_dir(installation, installation.env.get("HOME", "/nonexistent"))
        return await asyncio.to_thread(looked_at, ABOUT, installation, place)

    async def open(self, job: Job, host: Host) -> SessionRef | None:
        checked_input(job, ())
        self._job, self._host = job, host
        command = command_of(ABOUT.name, job)
        resumed = job.session if job.session and _kept(job, job.session.value) else None
        session = resumed.value if resumed else str(uuid.uuid5(_NAMESPACE, job.assignment_id))
        argv = [
            *command, "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose",
            "--strict-mcp-config", "--setting-sources", "", "--disallowedTools", NOT_OFFERED,
            "--allowedTools", _OWN, "--add-dir", str(job.inputs_dir), str(job.outputs_dir),
            *(("--resume", session) if resumed else ("--session-id", session)),
            *checked_model(job), *checked_effort(job, "--effort", EFFORTS),
        ]  # fmt: skip
        if job.permission_mode in ("ask", "readOnly"):
            argv += ["--permission-mode", "default", "--permission-prompt-tool", "stdio"]
        else:
            argv += ["--permission-mode", "bypassPermissions"]
        if job.instructions is not None:
            argv += ["--append-system-prompt-file", str(job.instructions)]
        own = job.home / ".claude"
        source = _config_dir(job.installation, job.env.get("HOME", "/nonexistent"))
        await asyncio.to_thread(
            credentials.lend, source, own, ABOUT.credentials, job.ledger, job.home.parent
        )
        argv += await asyncio.to_thread(_prepared, job, own)
        env = {**job.env, **OFF, "HOME": str(job.home), "CLAUDE_CONFIG_DIR": str(own)}
        await warn_of_version(ABOUT, command, env, host)
        process = await host.spawn(argv, env=env, stdin="pipe")
        self._channel = Channel(process, host, self._handle, "claude")
        await self._control({"subtype": "initialize"})
        return SessionRef("claude", session)

    async def turn(
        self, text: str, op_id: str, schema: Mapping[str, Any] | None = None
    ) -> TurnResult:
        self._turn = asyncio.get_running_loop().create_future()
        self._result, self._interrupted = None, False
        self._told, self._usage = Usage(), Usage()
        self._lines.clear()
        self._messages.clear()
        try:
            await self._say(text)
            await self._channel.first(self._turn)
        finally:
            self._turn = None
        result = self._result or {}
        closing = str(result.get("result") or "")
        if self._interrupted:
            return TurnResult("interrupted", text=closing, usage=self._usage)
        if result.get("is_error") or result.get("subtype") != "success":
            return TurnResult("failed", text=closing, error=_error_of(result), usage=self._usage)
        return TurnResult(
            "completed", text=closing, structured=result.get("structured_output"), usage=self._usage
        )

    async def steer(
        self, text: str, op_id: str
    ) -> Literal["injected", "queued", "idle", "unsupported"]:
        if self._turn is None or self._turn.done() or self._interrupted:
            return "idle"
        await self._say(text, priority="next")
        return "queued"

    async def interrupt(self) -> None:
        if self._turn is None or self._turn.done():
            return
        self._interrupted = True
        await self._control({"subtype": "interrupt"})

    async def close(self, grace_s: float) -> None:
        await self._channel.close(grace_s)

    # ---- the wire

    async def _say(self, text: str, **more: Any) -> None:
        line = str(uuid.uuid4())
        self._lines.add(line)
        message = {"role": "user", "content": text}
        await self._channel.send(
            {"type": "user", "uuid": line, "message": message, "parent_tool_use_id": None, **more}
        )

    async def _control(self, request: Mapping[str, Any]) -> dict[str, Any]:
        number = f"request {next(self._numbers)}"
        message = {"type": "control_request", "request_id": number, "request": request}
        response = await self._channel.ask(number, message, START_S)
        if response.get("subtype") != "success":
            error = f"claude refused `{request['subtype']}`: {response.get('error')}"
            raise AgentError("agent_protocol", error, "look at the task's transcript")
        return response.get("response") or {}

    async def _handle(self, message: dict[str, Any], raw: bytes) -> None:
        match message.get("type"):
            case "control_response":
                response = message["response"]
                self._channel.answer(str(response.get("request_id")), response)
            case "control_request":
                self._channel.aside(self._asked(message))
            case "command_lifecycle":
                self._told_of_lines = True
                if message.get("state") in ("completed", "cancelled"):
                    self._lines.discard(str(message.get("command_uuid")))
                self._look_whether_over()
            case "assistant":
                await self._said(message["message"], raw)
            case "user":
                await self._tool_results(message["message"], raw)
            case "result":
                await self._ended(message, raw)
            case "system" if message.get("subtype") in ("init", "compact_boundary", "api_error", "api_retry"):
                await self._host.emit(AgentEvent("record", {}, raw=raw))
            case _:
                pass

    def _look_whether_over(self) -> None:
        if self._turn is None or self._turn.done() or self._result is None:
            return
        if not self._lines or not self._told_of_lines:
            self._turn.set_result(None)

    async def _said(self, message: dict[str, Any], raw: bytes) -> None:
        events: list[AgentEvent] = []
        synthetic = message.get("model") == "<synthetic>"
        for part in message.get("content") or []:
            match part.get("type"):
                case "text" if not synthetic:
                    events.append(AgentEvent("text", {"text": part["text"]}))
                case "text":
                    events.append(AgentEvent("notice", {"level": "error", "text": part["text"]}))
                case "thinking":
                    events.append(AgentEvent("thinking", {"text": part.get("thinking", "")}))
                case "tool_use":
                    self._names[part["id"]] = part["name"]
                    given = {"id": part["id"], "name": part["name"], "input": part.get("input")}
                    events.append(AgentEvent("tool", {"state": "start", **given}))
                case _:
                    pass
        number = str(message.get("id"))
        usage = _usage_of(message.get("usage") or {})
        if not synthetic and number not in self._messages and usage.input_total:
            self._messages.add(number)
            # Its output is told at the end of the turn: here it is what was there when it began.
            told = Usage(usage.input_total, usage.cached_read, usage.cached_write, calls=1)
            self._told += told
            events.append(AgentEvent("usage", {"usage": told}))
        await self._emit(events, raw)

    async def _tool_results(self, message: dict[str, Any], raw: bytes) -> None:
        content = message.get("content")
        events = [
            AgentEvent("tool", {
                "state": "end", "id": part["tool_use_id"], "name": self._names.get(part["tool_use_id"], ""),
                "ok": not part.get("is_error"), "output": _text_of(part.get("content")),
            })
            for part in (content if isinstance(content, list) else []) if part.get("type") == "tool_result"
        ]  # fmt: skip
        await self._emit(events, raw)

    async def _ended(self, result: dict[str, Any], raw: bytes) -> None:
        """A `result`: one a turn, or more when a steering message came too late to be part of the first."""
        self._result = result
        usage = _usage_of(result.get("usage") or {})
        total = float(result.get("total_cost_usd") or 0.0)
        cost, self._cost_before = max(0.0, total - self._cost_before), total
        rest = Usage(
            max(0, usage.input_total - self._told.input_total),
            max(0, usage.cached_read - self._told.cached_read),
            max(0, usage.cached_write - self._told.cached_write),
            usage.output, usage.reasoning, cost,
        )  # fmt: skip
        self._usage += self._told + rest
        self._told = Usage()
        events = [AgentEvent("usage", {"usage": rest})] if rest != Usage(cost_usd=0.0) else []
        await self._emit(events, raw)
        self._look_whether_over()

    async def _asked(self, message: dict[str, Any]) -> None:
        request = message["request"]
        if request.get("subtype") != "can_use_tool":
            error = f"not offered: {request.get('subtype')}"
            response = {"subtype": "error", "request_id": message["request_id"], "error": error}
            await self._channel.send({"type": "control_response", "response": response})
            return
        name, given = str(request["tool_name"]), request.get("input") or {}
        decision = await self._host.permit(_question(name, given, str(request.get("tool_use_id"))))
        answer: dict[str, Any] = {"behavior": "allow", "updatedInput": given}
        if not decision.allowed:
            answer = {"behavior": "deny", "message": decision.reason or "The owner of this task did not allow it."}
        response = {"subtype": "success", "request_id": message["request_id"], "response": answer}
        await self._channel.send({"type": "control_response", "response": response})

    async def _emit(self, events: list[AgentEvent], raw: bytes) -> None:
        first, *others = events or [AgentEvent("record", {})]
        await self._host.emit(AgentEvent(first.kind, first.data, raw=raw))
        for event in others:
            await self._host.emit(event)


def _prepared(job: Job, own: Path) -> list[str]:
    """The private configuration: conversations in the task's directory, our tools. Options for them."""
    conversations = job.session_dir / "projects"
    conversations.mkdir(exist_ok=True)
    (own / "projects").symlink_to(conversations)
    if job.tools is None:
        return []
    server = {"type": "http", "url": job.tools.url, "headers": {"Authorization": f"Bearer {job.tools.bearer}"}}
    servers = own / "flakes-tools.json"
    descriptor = os.open(servers, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"mcpServers": {"flakes": server}}, file)
    return ["--mcp-config", str(servers)]


def _kept(job: Job, session: str) -> bool:
    return any((job.session_dir / "projects").glob(f"*/{session}.jsonl"))


def _config_dir(installation: Installation, home: str) -> Path:
    return installation.config_dir or Path(home) / ".claude"


def _question(name: str, given: Mapping[str, Any], number: str) -> Question:
    path = str(given.get(_WRITES[name], "")) if name in _WRITES else ""
    effect: Literal["read", "write", "execute", "other"] = "other"
    if name in _READS or name.startswith(_OWN):
        effect = "read"
    elif name in _WRITES:
        effect = "write"
    elif name == "Bash":
        effect = "execute"
    title = f"{name}: {given.get('command') or path or json.dumps(given)[:500]}"
    return Question(number, title, effect, {"tool": name, "input": given}, (path,) if path else ())


def _error_of(result: Mapping[str, Any]) -> AgentError:
    words = str(result.get("result") or "; ".join(map(str, result.get("errors") or [])) or result.get("subtype"))
    status = result.get("api_error_status")
    if status is not None or result.get("terminal_reason") == "api_error" or "API Error" in words:
        return model_error(words, int(status) if status is not None else None)
    if result.get("subtype") == "error_max_turns":
        return AgentError("agent_gave_up", f"claude stopped: {words}", "split the task")
    return AgentError("agent_failed", f"claude failed: {words[:1500]}", "look at the task's transcript")


def _usage_of(found: Mapping[str, Any]) -> Usage:
    read = int(found.get("cache_read_input_tokens") or 0)
    written = int(found.get("cache_creation_input_tokens") or 0)
    fresh = int(found.get("input_tokens") or 0)
    details = found.get("output_tokens_details") or {}
    return Usage(
        fresh + read + written, read, written, int(found.get("output_tokens") or 0),
        int(details.get("thinking_tokens") or 0),
    )  # fmt: skip


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content or [] if part.get("type") == "text")
