"""The `codex` adapter: Codex over its app-server, one thread for all turns of an attempt.

Codex has a sandbox of its own; it is switched off, because the task is contained already and the task's tools
have to be reached. A turn is over at `turn/completed`; errors that it will try again are only noted. Usage
comes as totals of the thread, of which a call's share is the difference. It does not say what it cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from flakes import __version__
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
from flakes.agents.installed import About, command_of, looked_at, warn_of_version
from flakes.agents.jsonrpc import CallError, JsonRpc
from flakes.agents.model_errors import model_error
from flakes.agents.options import checked_effort, checked_input, checked_model

ABOUT: Final = About(
    "codex", ("0.163", "0.170"), "install it: npm install -g @openai/codex",
    "run `codex login`, or set OPENAI_API_KEY", ("auth.json",), ("OPENAI_API_KEY", "CODEX_API_KEY"),
)  # fmt: skip
EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh")
SETTINGS: Final = ("config.toml",)
CONFIG: Final = (
    "check_for_update_on_startup=false", "analytics.enabled=false", "features.plugins=false",
    "features.apps=false", "shell_environment_policy.inherit=all",
    "shell_environment_policy.ignore_default_excludes=true",
)  # fmt: skip
"""Over the user's own settings: no traffic besides the model's (plugins alone cost five seconds at the end),
and the agent's commands see the environment of the task."""
START_S: Final = 60.0
_QUIET: Final = (
    "item/agentMessage/delta", "item/reasoning/textDelta", "item/reasoning/summaryTextDelta",
    "item/commandExecution/outputDelta", "item/fileChange/outputDelta", "item/plan/delta", "turn/diff/updated",
    "account/rateLimits/updated", "thread/status/changed",
)  # fmt: skip
_RECORDS: Final = frozenset({"thread/started", "turn/plan/updated", "thread/compacted"})
_TOOLS: Final = frozenset(
    {"commandExecution", "fileChange", "mcpToolCall", "dynamicToolCall", "webSearch", "collabAgentToolCall"}
)  # fmt: skip
_STATUS: Final = {
    "unauthorized": 401, "usageLimitExceeded": 429, "rateLimitExceeded": 429, "serverOverloaded": 503,
    "internalServerError": 500, "badRequest": 400, "modelNotFound": 404,
}  # fmt: skip


class CodexDriver:
    """One app-server process with one thread."""

    def __init__(self) -> None:
        self._turn: asyncio.Future[dict[str, Any]] | None = None
        self._turn_id: asyncio.Future[str] | None = None
        self._usage = Usage()
        self._total: Usage | None = None
        self._turns: set[str] = set()
        """The turns of this process: a thread that is gone on with brings earlier ones."""
        self._text = ""
        self._items: dict[str, dict[str, Any]] = {}

    def capabilities(self) -> Capabilities:
        return Capabilities(steer=True, resume=True, usage=True, converses=True)

    async def check(self, installation: Installation) -> Check:
        place = _config_dir(installation, installation.env.get("HOME", "/nonexistent"))
        return await asyncio.to_thread(looked_at, ABOUT, installation, place)

    async def open(self, job: Job, host: Host) -> SessionRef | None:
        checked_input(job, ())
        self._job, self._host = job, host
        model = checked_model(job, "")
        self._effort = checked_effort(job, "", EFFORTS)
        command = command_of(ABOUT.name, job)
        own = job.home / ".codex"
        source = _config_dir(job.installation, job.env.get("HOME", "/nonexistent"))
        await asyncio.to_thread(credentials.copy_in, source, own, SETTINGS)
        await asyncio.to_thread(
            credentials.lend, source, own, ABOUT.credentials, job.ledger, job.home.parent
        )
        await asyncio.to_thread(_prepare, job, own)
        env = {**job.env, "HOME": str(job.home), "CODEX_HOME": str(own)}
        await warn_of_version(ABOUT, command, env, host)
        overrides = [word for value in CONFIG for word in ("-c", value)]
        argv = [*command, *overrides, "app-server", "--stdio"]
        process = await host.spawn(argv, env=env, stdin="pipe")
        self._rpc = JsonRpc(
            process, host, "codex", notified=self._notified, requested=self._requested, marked=False
        )
        try:
            await self._rpc.call("initialize", {
                "clientInfo": {"name": "flakes", "title": "Flakes", "version": __version__},
                "capabilities": {"experimentalApi": True, "optOutNotificationMethods": list(_QUIET)},
            }, START_S)  # fmt: skip
            await self._rpc.notify("initialized")
            self._thread = await self._open_thread(model)
        except CallError as error:
            raise AgentError("agent_protocol", f"codex does not start: {error}", "look at the task's log") from error
        return SessionRef("codex", self._thread)

    async def turn(
        self, text: str, op_id: str, schema: Mapping[str, Any] | None = None
    ) -> TurnResult:
        loop = asyncio.get_running_loop()
        self._turn, self._turn_id = loop.create_future(), loop.create_future()
        self._usage, self._text = Usage(), ""
        params: dict[str, Any] = {"threadId": self._thread, "input": _input(text), "cwd": str(self._job.cwd)}
        if self._effort:
            params["effort"] = self._effort[0]
        if schema is not None:
            params["outputSchema"] = schema
        try:
            started = await self._rpc.call("turn/start", params, START_S)
            self._begun(str(started["turn"]["id"]))
            turn = await self._rpc.channel.first(self._turn)
        except CallError as error:
            raise AgentError("agent_protocol", f"codex refused the turn: {error}", "look at the task's transcript") from error
        finally:
            self._turn = self._turn_id = None
        match turn.get("status"):
            case "completed":
                return TurnResult("completed", text=self._text, usage=self._usage)
            case "interrupted":
                return TurnResult("interrupted", text=self._text, usage=self._usage)
            case _:
                error = _error_of(turn.get("error") or {})
                return TurnResult("failed", text=self._text, error=error, usage=self._usage)

    async def steer(
        self, text: str, op_id: str
    ) -> Literal["injected", "queued", "idle", "unsupported"]:
        turn_id = await self._running()
        if turn_id is None:
            return "idle"
        try:
            await self._rpc.call("turn/steer", {
                "threadId": self._thread, "expectedTurnId": turn_id, "input": _input(text),
            }, START_S)  # fmt: skip
        except CallError:
            return "idle"  # the turn has just ended
        return "queued"

    async def interrupt(self) -> None:
        turn_id = await self._running()
        if turn_id is None:
            return
        try:
            await self._rpc.call("turn/interrupt", {"threadId": self._thread, "turnId": turn_id}, START_S)
        except CallError:
            return  # the turn has just ended

    async def close(self, grace_s: float) -> None:
        await self._rpc.channel.close(grace_s)

    # ---- the wire

    async def _open_thread(self, model: list[str]) -> str:
        job = self._job
        asks = job.permission_mode in ("ask", "readOnly")
        params: dict[str, Any] = {
            "cwd": str(job.cwd), "sandbox": "danger-full-access",
            "approvalPolicy": "untrusted" if asks else "never",
        }  # fmt: skip
        if model:
            params["model"] = model[0]
        if job.instructions is not None:
            params["developerInstructions"] = job.instructions.read_text()
        if job.tools is not None:
            # Required: without it the first turn would not wait for the tools.
            params["config"] = {"mcp_servers": {"flakes": {
                "url": job.tools.url, "http_headers": {"Authorization": f"Bearer {job.tools.bearer}"},
                "required": True, "default_tools_approval_mode": "approve",
            }}}  # fmt: skip
        if job.session is not None:
            resumed = params | {"threadId": job.session.value, "excludeTurns": True}
            try:
                return str((await self._rpc.call("thread/resume", resumed, START_S))["thread"]["id"])
            except CallError as error:
                text = f"codex cannot go on with its session: {error}"
                await self._host.emit(AgentEvent("notice", {"level": "warning", "text": text}))
        return str((await self._rpc.call("thread/start", params, START_S))["thread"]["id"])

    async def _running(self) -> str | None:
        if self._turn is None or self._turn_id is None or self._turn.done():
            return None
        return await self._rpc.channel.first(asyncio.shield(self._turn_id))

    def _begun(self, turn_id: str) -> None:
        self._turns.add(turn_id)
        if self._turn_id is not None and not self._turn_id.done():
            self._turn_id.set_result(turn_id)

    async def _notified(self, method: str, params: dict[str, Any], raw: bytes) -> None:
        match method:
            case "item/started":
                await self._item_started(params["item"])
            case "item/completed":
                await self._item_completed(params["item"], raw)
            case "thread/tokenUsage/updated":
                await self._spent(params["tokenUsage"], str(params.get("turnId")))
            case "turn/started":
                self._begun(str(params["turn"]["id"]))
                await self._host.emit(AgentEvent("record", {}, raw=raw))
            case "turn/completed":
                await self._host.emit(AgentEvent("record", {}, raw=raw))
                if self._turn is not None and not self._turn.done():
                    self._turn.set_result(params["turn"])
            case "error" if params.get("willRetry"):
                text = f"the model call failed, codex tries again: {(params.get('error') or {}).get('message')}"
                await self._host.emit(AgentEvent("notice", {"level": "info", "text": text}, raw=raw))
            case "warning" | "configWarning" | "error":
                found = params.get("error") or {}
                text = str(params.get("message") or params.get("summary") or found.get("message"))
                await self._host.emit(AgentEvent("notice", {"level": "warning", "text": text}, raw=raw))
            case _ if method in _RECORDS:
                await self._host.emit(AgentEvent("record", {}, raw=raw))
            case _:
                pass

    async def _item_started(self, item: dict[str, Any]) -> None:
        if item.get("type") not in _TOOLS:
            return
        self._items[item["id"]] = item
        await self._host.emit(AgentEvent("tool", {
            "state": "start", "id": item["id"], "name": _name_of(item), "input": _input_of(item),
        }))  # fmt: skip

    async def _item_completed(self, item: dict[str, Any], raw: bytes) -> None:
        match item.get("type"):
            case "agentMessage":
                self._text = str(item.get("text"))
                event = AgentEvent("text", {"text": self._text}, raw=raw)
            case "reasoning":
                parts = [*(item.get("summary") or []), *(item.get("content") or [])]
                event = AgentEvent("thinking", {"text": "\n".join(map(str, parts))}, raw=raw)
            case kind if kind in _TOOLS:
                self._items.pop(item["id"], None)
                event = AgentEvent("tool", {
                    "state": "end", "id": item["id"], "name": _name_of(item),
                    "ok": item.get("status") == "completed" and not item.get("error") and not item.get("exitCode"),
                    "output": _output_of(item),
                }, raw=raw)  # fmt: skip
            case _:
                event = AgentEvent("record", {}, raw=raw)
        await self._host.emit(event)

    async def _spent(self, told: Mapping[str, Any], turn_id: str) -> None:
        total, last = _usage_of(told["total"]), _usage_of(told["last"])
        # Of a thread that is gone on with, what came before this process is not this attempt's; codex tells
        # of it again, as of the turn that it was, when it had written it down before it was ended.
        if turn_id not in self._turns:
            self._total = total
            return
        before = self._total if self._total is not None else _less(total, last)
        self._total = total
        spent = _less(total, before)
        if spent.input_total or spent.output:
            spent = spent + Usage(calls=1)
            self._usage += spent
            await self._host.emit(AgentEvent("usage", {"usage": spent}))

    async def _requested(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        item = self._items.get(str(params.get("itemId")), {})
        match method:
            case "item/commandExecution/requestApproval":
                command = params.get("command") or item.get("command")
                shown = " ".join(command) if isinstance(command, list) else str(command)
                question = Question(
                    str(params.get("approvalId") or params["itemId"]), f"run: {shown}", "execute",
                    {"command": shown, "cwd": params.get("cwd"), "reason": params.get("reason")},
                )  # fmt: skip
            case "item/fileChange/requestApproval":
                paths = tuple(str(change["path"]) for change in item.get("changes") or [])
                details = {"changes": item.get("changes"), "reason": params.get("reason")}
                question = Question(str(params["itemId"]), f"change: {', '.join(paths)}", "write", details, paths)
            case "mcpServer/elicitation/request" if params.get("serverName") == "flakes":
                return {"action": "accept", "content": {}, "_meta": None}
            case _:
                raise AgentError("agent_protocol", f"not offered: {method}")
        decision = await self._host.permit(question)
        return {"decision": "accept" if decision.allowed else "decline"}


def _prepare(job: Job, own: Path) -> None:
    """Its conversations are in the task's directory, the rest of its home is the attempt's."""
    conversations = job.session_dir / "sessions"
    conversations.mkdir(exist_ok=True)
    (own / "sessions").symlink_to(conversations)


def _config_dir(installation: Installation, home: str) -> Path:
    return installation.config_dir or Path(home) / ".codex"


def _input(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "text_elements": []}]


def _name_of(item: Mapping[str, Any]) -> str:
    if item["type"] == "mcpToolCall":
        return f"{item.get('server')}/{item.get('tool')}"
    return str(item.get("tool") or item["type"])


def _input_of(item: Mapping[str, Any]) -> Any:
    for name in ("command", "arguments", "query", "changes"):
        if item.get(name) is not None:
            return {name: item[name]} if name != "arguments" else item[name]
    return {}


def _output_of(item: Mapping[str, Any]) -> str:
    if item.get("aggregatedOutput") is not None:
        return str(item["aggregatedOutput"])
    found = item.get("result") or item.get("error") or {}
    parts = found.get("content") if isinstance(found, dict) else None
    if isinstance(parts, list):
        return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
    return str(found.get("message", "") if isinstance(found, dict) else found)


def _error_of(error: Mapping[str, Any]) -> AgentError:
    words, info = str(error.get("message") or "no reason given"), error.get("codexErrorInfo")
    if info == "contextWindowExceeded":
        return model_error(f"context window exceeded: {words}")
    if isinstance(info, dict):
        (status,) = [v.get("httpStatusCode") for v in info.values() if isinstance(v, dict)][:1] or [None]
        return model_error(words, status)
    if info is None or info == "other":
        return model_error(words, 400 if "invalid_request_error" in words else None)
    return model_error(words, _STATUS.get(str(info)))


def _usage_of(found: Mapping[str, Any]) -> Usage:
    return Usage(
        int(found.get("inputTokens") or 0), int(found.get("cachedInputTokens") or 0),
        int(found.get("cacheWriteInputTokens") or 0), int(found.get("outputTokens") or 0),
        int(found.get("reasoningOutputTokens") or 0),
    )  # fmt: skip


def _less(one: Usage, other: Usage) -> Usage:
    return Usage(
        max(0, one.input_total - other.input_total), max(0, one.cached_read - other.cached_read),
        max(0, one.cached_write - other.cached_write), max(0, one.output - other.output),
        max(0, one.reasoning - other.reasoning),
    )  # fmt: skip
