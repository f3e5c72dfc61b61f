"""The `pi` adapter: the pi coding agent over its RPC mode, with an extension of ours for questions and tools.

A message to a running agent is always a `prompt` with `streamingBehavior`: pi's own `steer` is taken and
never run when the agent has just gone idle. A turn is over at `agent_settled`; whether it went well is told
by the last assistant message before it, since pi tries failed model calls again by itself. Records of
partial messages are not kept: each repeats the message so far.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
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
    "pi", ("0.87", "0.88"), "install it: npm install -g @earendil-works/pi-coding-agent",
    "start `pi` and type /login, or set the key of a provider (such as ANTHROPIC_API_KEY)",
    ("auth.json",), ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY"),
)  # fmt: skip
EFFORTS: Final = ("off", "minimal", "low", "medium", "high", "xhigh", "max")
EXTENSION: Final = Path(__file__).with_name("pi_extension.ts")
SETTINGS: Final = ("settings.json", "models.json", "trust.json")
OFF: Final = {"PI_OFFLINE": "1", "PI_TELEMETRY": "0", "PI_SKIP_VERSION_CHECK": "1"}
"""Switches off what pi asks the network for besides its model."""
START_S: Final = 60.0
_EFFECTS: Final = {"bash": "execute", "edit": "write", "write": "write"}
_RECORDS: Final = frozenset(
    {"message_end", "entry_appended", "auto_retry_start", "auto_retry_end", "compaction_start",
     "compaction_end", "extension_error"}
)  # fmt: skip


class PiDriver:
    """One pi process for all turns of an attempt."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._settled: asyncio.Future[None] | None = None
        self._steering: set[str] = set()
        """Messages that pi has not answered yet: one taken after the end begins a new run."""
        self._over = False
        self._last: dict[str, Any] = {}
        self._usage = Usage()
        self._interrupted = False

    def capabilities(self) -> Capabilities:
        return Capabilities(steer=True, resume=True, usage=True, converses=True)

    async def check(self, installation: Installation) -> Check:
        place = _config_dir(installation, Path(installation.env.get("HOME", "/nonexistent")))
        return await asyncio.to_thread(looked_at, ABOUT, installation, place)

    async def open(self, job: Job, host: Host) -> SessionRef | None:
        checked_input(job, ())
        self._job, self._host = job, host
        command = command_of(ABOUT.name, job)
        file = await asyncio.to_thread(_resumed, job)
        session = job.session.value if file and job.session else re.sub(r"[^A-Za-z0-9_-]", "-", job.assignment_id)
        argv = [
            *command, "--mode", "rpc", "--no-extensions", "--extension", str(EXTENSION), "--no-skills",
            "--session-dir", str(job.session_dir),
            *(("--session", file) if file else ("--session-id", session)),
            *checked_model(job), *checked_effort(job, "--thinking", EFFORTS),
        ]  # fmt: skip
        if job.instructions is not None:
            argv += ["--append-system-prompt", str(job.instructions)]
        own = job.home / ".pi" / "agent"
        source = _config_dir(job.installation, Path(job.env.get("HOME", "/nonexistent")))
        await asyncio.to_thread(credentials.copy_in, source, own, SETTINGS)
        await asyncio.to_thread(
            credentials.lend, source, own, ABOUT.credentials, job.ledger, job.home.parent
        )
        env = {**job.env, **OFF, "HOME": str(job.home), "PI_CODING_AGENT_DIR": str(own)}
        if job.tools is not None:
            env |= {"FLAKES_MCP_URL": job.tools.url, "FLAKES_MCP_TOKEN": job.tools.bearer}
        if job.permission_mode in ("ask", "readOnly"):
            env["FLAKES_ASK"] = "1"
        await warn_of_version(ABOUT, command, env, host)
        process = await host.spawn(argv, env=env, stdin="pipe")
        self._channel = Channel(process, host, self._handle, "pi")
        state = await self._ask("get_state", START_S)
        model = state.get("model") or {}
        if job.model and job.model.split("/")[-1].split(":")[0] not in (model.get("id"), model.get("name")):
            await self._host.emit(AgentEvent("notice", {
                "level": "warning", "text": f"pi took {model.get('provider')}/{model.get('id')} for `{job.model}`"
            }))  # fmt: skip
        return SessionRef("pi", session)

    async def turn(
        self, text: str, op_id: str, schema: Mapping[str, Any] | None = None
    ) -> TurnResult:
        self._settled = asyncio.get_running_loop().create_future()
        self._last, self._usage, self._interrupted, self._over = {}, Usage(), False, False
        try:
            await self._prompt(text, "followUp")
            await self._channel.first(self._settled)
        finally:
            self._settled = None
        closing = _text_of(self._last)
        if self._interrupted:
            return TurnResult("interrupted", text=closing, usage=self._usage)
        if self._last.get("stopReason") in ("error", "aborted"):
            error = model_error(self._last.get("errorMessage") or "no reason given")
            return TurnResult("failed", text=closing, error=error, usage=self._usage)
        return TurnResult("completed", text=closing, usage=self._usage)

    async def steer(
        self, text: str, op_id: str
    ) -> Literal["injected", "queued", "idle", "unsupported"]:
        if self._settled is None or self._interrupted:
            return "idle"
        await self._prompt(text, "steer")
        return "queued"

    async def interrupt(self) -> None:
        if self._settled is None:
            return
        self._interrupted = True
        await self._ask("clear_queue", START_S)
        await self._ask("abort", START_S)

    async def close(self, grace_s: float) -> None:
        await self._channel.close(grace_s)

    # ---- the wire

    async def _prompt(self, text: str, behavior: str) -> None:
        await self._ask("prompt", START_S, message=text, streamingBehavior=behavior)

    async def _ask(self, command: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        number = f"{command} {next(self._numbers)}"
        message = {"id": number, "type": command, **fields}
        if fields.get("streamingBehavior") == "steer":
            self._steering.add(number)
            self._over = False
        answer = await self._channel.ask(number, message, timeout_s)
        if not answer.get("success"):
            raise _refused(command, str(answer.get("error")))
        return answer.get("data") or {}

    async def _handle(self, message: dict[str, Any], raw: bytes) -> None:
        kind = message.get("type")
        record = raw if kind in _RECORDS else None
        match kind:
            case "response":
                self._answered(message)
            case "message_end":
                await self._message(message["message"], raw)
                record = None
            case "tool_execution_end":
                await self._host.emit(AgentEvent("tool", {
                    "state": "end", "id": message["toolCallId"], "name": message["toolName"],
                    "ok": not message.get("isError"), "output": _text_of(message.get("result") or {}),
                }))  # fmt: skip
            case "agent_start":
                self._over = False
            case "agent_settled":
                self._settle()
            case "auto_retry_start":
                text = f"the model call failed, pi tries again: {message.get('errorMessage')}"
                await self._host.emit(AgentEvent("notice", {"level": "info", "text": text}, raw=raw))
                record = None
            case "extension_error":
                text = f"pi's extension failed: {message.get('error')}"
                await self._host.emit(AgentEvent("notice", {"level": "error", "text": text}))
            case "extension_ui_request" if message.get("method") == "input":
                self._channel.aside(self._decide(message))
            case _:
                pass
        if record is not None:
            await self._host.emit(AgentEvent("record", {}, raw=record))

    def _answered(self, message: dict[str, Any]) -> None:
        number = str(message.get("id"))
        self._channel.answer(number, message)
        if number in self._steering:
            self._steering.discard(number)
            if self._over and not message.get("success"):
                self._settle()

    def _settle(self) -> None:
        # A steering message that is still on its way finds pi idle and begins another run: wait for that.
        self._over = True
        if self._settled is not None and not self._settled.done() and not self._steering:
            self._settled.set_result(None)

    async def _message(self, message: dict[str, Any], raw: bytes) -> None:
        if message.get("role") != "assistant":
            await self._host.emit(AgentEvent("record", {}, raw=raw))
            return
        self._last = message
        events: list[AgentEvent] = []
        for part in message.get("content") or []:
            match part.get("type"):
                case "text":
                    events.append(AgentEvent("text", {"text": part["text"]}))
                case "thinking":
                    events.append(AgentEvent("thinking", {"text": part.get("thinking", "")}))
                case "toolCall":
                    given = {"id": part["id"], "name": part["name"], "input": part.get("arguments")}
                    events.append(AgentEvent("tool", {"state": "start", **given}))
                case _:
                    pass
        usage = _usage_of(message.get("usage") or {})
        if usage.calls:
            self._usage += usage
            events.append(AgentEvent("usage", {"usage": usage}))
        first, *others = events or [AgentEvent("record", {})]
        await self._host.emit(AgentEvent(first.kind, first.data, raw=raw))
        for event in others:
            await self._host.emit(event)

    async def _decide(self, request: dict[str, Any]) -> None:
        """A question of our extension: its title is the call as JSON."""
        call = json.loads(request.get("title") or "{}")
        name, given = str(call.get("tool")), call.get("input") or {}
        effect: Any = _EFFECTS.get(name, "other")
        path = given.get("path")
        decision = await self._host.permit(Question(
            str(call.get("id")), f"{name}: {given.get('command') or path or json.dumps(given)[:500]}",
            effect, {"tool": name, "input": given}, (str(path),) if effect == "write" and path else (),
        ))  # fmt: skip
        await self._channel.send({
            "type": "extension_ui_response", "id": request["id"],
            "value": "allow" if decision.allowed else f"deny {decision.reason}",
        })  # fmt: skip


def _config_dir(installation: Installation, home: Path) -> Path:
    return installation.config_dir or home / ".pi" / "agent"


def _resumed(job: Job) -> str | None:
    """The session to go on with, when its file is there. pi takes a file only when the directory in which it
    began exists, so the file is told where the task is now."""
    if job.session is None:
        return None
    found = sorted(job.session_dir.rglob(f"*{job.session.value}.jsonl"))
    if not found or found[-1].is_symlink() or not found[-1].resolve().is_relative_to(job.session_dir.resolve()):
        return None
    head, _, rest = found[-1].read_bytes().partition(b"\n")
    try:
        moved = json.dumps(json.loads(head) | {"cwd": str(job.cwd)}).encode()
    except (ValueError, TypeError):
        return None
    new = found[-1].with_suffix(".new")
    new.write_bytes(moved + b"\n" + rest)
    new.replace(found[-1])
    return str(found[-1])


def _refused(command: str, error: str) -> AgentError:
    if "api key" in error.lower() or "model" in error.lower():
        return AgentError("model_auth", f"pi cannot use its model: {error}", "sign in with `pi` on this machine, or name another `model`")
    return AgentError("agent_protocol", f"pi refused `{command}`: {error}", "look at the task's transcript")


def _text_of(message: Mapping[str, Any]) -> str:
    parts = message.get("content") or []
    return "\n".join(part["text"] for part in parts if part.get("type") == "text" and part.get("text"))


def _usage_of(found: Mapping[str, Any]) -> Usage:
    cached, written = int(found.get("cacheRead") or 0), int(found.get("cacheWrite") or 0)
    fresh, output = int(found.get("input") or 0), int(found.get("output") or 0)
    if not fresh + cached + written + output:
        return Usage()
    cost = (found.get("cost") or {}).get("total")
    return Usage(
        fresh + cached + written, cached, written, output, int(found.get("reasoning") or 0),
        float(cost) if cost is not None else None, calls=1,
    )  # fmt: skip
