"""The `acp` adapter: any agent that speaks the Agent Client Protocol, version 1, one session for all turns.

The messages are read and written with the types of the protocol's own library; the process and the order of
its lines are ours (docs/design/006-acp.md says why). What the protocol leaves open is in the table of
`acp_agents`. A message into a running turn is given only to agents with the steering extension: a second prompt
meanwhile does something else in every agent. The protocol has no system prompt, so what every agent is told of
its surroundings comes before the first prompt of a session.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from flakes import __version__
from flakes.agents import credentials
from flakes.agents.acp_agents import GENERIC, known
from flakes.agents.acp_updates import Updates, usage_of
from flakes.agents.base import (
    AgentError,
    AgentEvent,
    Capabilities,
    Check,
    Host,
    Installation,
    Job,
    SessionRef,
    TurnResult,
    Usage,
)
from flakes.agents.installed import UNTESTED, About, command_of, looked_at, untested
from flakes.agents.jsonrpc import CallError, JsonRpc
from flakes.agents.model_errors import model_error
from flakes.agents.options import checked_input, checked_model

if TYPE_CHECKING:
    from acp import schema
    from pydantic import BaseModel

    Answer = TypeVar("Answer", bound=BaseModel)

START_S: Final = 60.0
VERSION: Final = 1
AUTH_REQUIRED: Final = -32000
STEERING: Final = "_session/steering"


class AcpDriver:
    """One process of an agent, with one session."""

    def __init__(self) -> None:
        self._prompted = False
        self._interrupted = False
        self._loading = False
        self._said = False
        """The instructions were given."""
        self._sign_in: list[str] = []

    def capabilities(self) -> Capabilities:
        return Capabilities(steer=True, resume=True, usage=True, converses=True)

    async def check(self, installation: Installation) -> Check:
        if not installation.command:
            return Check(
                False, message="no command is set: any agent may be one",
                fix='set `agent.command` in the pool, such as ["opencode", "acp"]',
            )  # fmt: skip
        agent = known(installation.command)
        home = installation.config_dir or Path(installation.env.get("HOME", "/nonexistent"))
        name = Path(installation.command[0]).name if agent is GENERIC else agent.name
        about = About(name, agent.tested, f"install {name}", f"sign in with {name} itself", agent.credentials)
        found = await asyncio.to_thread(looked_at, about, installation, home)
        # Of one that is not known nobody can say where it keeps its credential.
        return replace(found, signed_in=found.signed_in or (False if agent.credentials else None))

    async def open(self, job: Job, host: Host) -> SessionRef | None:
        checked_input(job, ())
        checked_model(job)
        if not job.installation.command:
            raise AgentError(
                "agent_missing", "the pool does not say which agent to start",
                'set `agent.command` of the pool, such as ["opencode", "acp"]',
            )  # fmt: skip
        self._job, self._host, self._agent = job, host, known(job.installation.command)
        self._asking = job.permission_mode in ("ask", "readOnly")
        if self._asking and not self._agent.asks:
            raise AgentError(
                "permission_mode_unsupported",
                f"{self._agent.name} does not ask before it changes something, so the task's mode cannot be kept",
                "use another agent for this task, or the permission mode `auto`",
            )  # fmt: skip
        # Half a second, the first time.
        self._schema: Any = await asyncio.to_thread(importlib.import_module, "acp.schema")
        env = await asyncio.to_thread(self._prepared)
        process = await host.spawn(command_of(self._agent.name, job), env=env, stdin="pipe")
        self._updates = Updates(host)
        self._rpc = JsonRpc(
            process, host, self._agent.name, notified=self._notified, requested=self._requested, marked=True
        )
        try:
            await self._initialize()
            await self._open_session()
            await self._choose()
        except CallError as error:
            raise self._not_started(error) from error
        return SessionRef("acp", self._session)

    async def turn(
        self, text: str, op_id: str, schema: Mapping[str, Any] | None = None
    ) -> TurnResult:
        self._prompted, self._interrupted = True, False
        self._updates.begin()
        try:
            answer = await self._call(
                "session/prompt",
                self._schema.PromptRequest(session_id=self._session, prompt=self._blocks(text)),
                self._schema.PromptResponse,
            )
        except CallError as error:
            await self._updates.finish()
            if self._interrupted:
                return TurnResult("interrupted", text=self._updates.text)
            failed = model_error(_words(error))
            return TurnResult("failed", text=self._updates.text, error=failed, usage=await self._spent(None))
        finally:
            self._prompted = False
        await self._updates.finish()
        return self._ended(answer.stop_reason, await self._spent(answer.usage))

    async def steer(
        self, text: str, op_id: str
    ) -> Literal["injected", "queued", "idle", "unsupported"]:
        if not self._steers:
            return "unsupported"
        if not self._prompted or self._interrupted:
            return "idle"
        try:
            answer = await self._rpc.call(STEERING, {
                "sessionId": self._session, "prompt": [{"type": "text", "text": text}],
                "_meta": {"steering": {"idleBehavior": "promptRequired"}},
            }, START_S)  # fmt: skip
        except CallError:
            return "idle"
        return "idle" if answer.get("outcome") == "promptRequired" else "injected"

    async def interrupt(self) -> None:
        if self._prompted and not self._interrupted:
            self._interrupted = True
            await self._rpc.notify("session/cancel", {"sessionId": self._session})

    async def close(self, grace_s: float) -> None:
        await self._rpc.channel.close(grace_s)

    # ---- the session

    def _prepared(self) -> dict[str, str]:
        """The private home with what the agent needs of the user's; the environment. Blocking."""
        job, agent = self._job, self._agent
        source = job.installation.config_dir or Path(job.env.get("HOME", "/nonexistent"))
        for name in (*agent.settings, *agent.credentials):
            place = Path(name).parent
            copied = source / place, job.home / place, (Path(name).name,)
            if name in agent.credentials:
                credentials.lend(*copied, job.ledger, job.home.parent)
            else:
                credentials.copy_in(*copied)
        for name in agent.sessions:
            kept, link = job.session_dir / Path(name).name, job.home / name
            kept.mkdir(exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(kept)
        asking = agent.asking if self._asking else {}
        return {
            **agent.env, **job.env, **asking,
            "HOME": str(job.home), "XDG_STATE_HOME": str(job.session_dir / "state"),
        }  # fmt: skip

    async def _initialize(self) -> None:
        schema = self._schema
        request = schema.InitializeRequest(
            protocol_version=VERSION, client_capabilities=schema.ClientCapabilities(),
            client_info=schema.Implementation(name="flakes", title="Flakes", version=__version__),
        )  # fmt: skip
        answer: schema.InitializeResponse = await self._call(
            "initialize", request, schema.InitializeResponse, START_S
        )
        if answer.protocol_version != VERSION:
            raise AgentError(
                "agent_protocol", f"the agent speaks version {answer.protocol_version} of ACP, not {VERSION}",
                "use a version of the agent that still speaks it",
            )  # fmt: skip
        self._can = answer.agent_capabilities
        self._sign_in = [each.name for each in answer.auth_methods or [] if getattr(each, "name", None)]
        steering = (answer.field_meta or {}).get("steering")
        self._steers = isinstance(steering, dict) and steering.get("supported") is True
        version = answer.agent_info.version if answer.agent_info else ""
        if self._agent.tested is None:
            name = answer.agent_info.name if answer.agent_info else self._agent.name
            asks = "; whether it asks before it changes something is its own affair" if self._asking else ""
            await self._warn(f"{name} {version} was not tested: it is used by the protocol alone{asks}", UNTESTED)
        elif warning := untested(self._agent.name, version, self._agent.tested):
            await self._warn(warning, UNTESTED)

    async def _open_session(self) -> None:
        schema, job = self._schema, self._job
        servers: list[Any] = []
        if job.tools is not None and self._can and self._can.mcp_capabilities and self._can.mcp_capabilities.http:
            header = schema.HttpHeader(name="Authorization", value=f"Bearer {job.tools.bearer}")
            servers.append(schema.HttpMcpServer(type="http", name="flakes", url=job.tools.url, headers=[header]))
        elif job.tools is not None:
            await self._warn("the agent takes no tools over HTTP: it has the command `flakes` in its shell alone")
        where: dict[str, Any] = {"cwd": str(job.cwd), "mcp_servers": servers}
        if self._agent.meta:
            where["field_meta"] = dict(self._agent.meta)
        if job.session is not None and (found := await self._resume(job.session.value, where)) is not None:
            self._session, self._opened, self._said = job.session.value, found, True
            return
        opened = await self._call(
            "session/new", schema.NewSessionRequest(**where), schema.NewSessionResponse, START_S
        )
        self._session, self._opened = opened.session_id, opened

    async def _resume(self, session: str, where: Mapping[str, Any]) -> Any:
        """Go on with a session, as the agent offers it; None when it cannot."""
        schema, offered = self._schema, self._can.session_capabilities if self._can else None
        self._loading = True  # one way of it says again all that was said
        try:
            if offered is not None and offered.resume is not None:
                request = schema.ResumeSessionRequest(session_id=session, **where)
                return await self._call("session/resume", request, schema.ResumeSessionResponse, START_S)
            if self._can and self._can.load_session:
                request = schema.LoadSessionRequest(session_id=session, **where)
                return await self._call("session/load", request, schema.LoadSessionResponse, START_S)
        except CallError as error:
            await self._warn(f"{self._agent.name} cannot go on with its session: {_words(error)}")
        finally:
            self._loading = False
        return None

    async def _choose(self) -> None:
        """The task's model and effort, and a mode that fits its permissions."""
        job = self._job
        if job.model is not None:
            await self._set("model", job.model, "model_invalid", "model")
        if job.effort is not None:
            await self._set("thought_level", job.effort, "effort_invalid", "effort")
        mode = self._agent.modes.get("ask" if self._asking else "auto")
        offered = [each.id for each in self._opened.modes.available_modes] if self._opened.modes else []
        if mode is not None and mode not in offered and self._asking:
            raise AgentError(
                "permission_mode_unsupported",
                f"{self._agent.name} has no mode `{mode}`, in which it would ask before it changes something",
                "use a version of it that was tested, or the permission mode `auto`",
            )  # fmt: skip
        if mode in offered:
            request = self._schema.SetSessionModeRequest(session_id=self._session, mode_id=mode)
            await self._call("session/set_mode", request, self._schema.SetSessionModeResponse, START_S)

    async def _set(self, category: str, wanted: str, code: str, what: str) -> None:
        options = [each for each in self._opened.config_options or [] if each.category == category]
        if not options and self._job.session is not None and self._session == self._job.session.value:
            return  # a session that is gone on with has what was chosen for it
        if not options:
            raise AgentError(code, f"the agent lets nobody choose its {what}", f"leave out `{what}`")
        values = _values_of(options[0])
        if wanted not in values:
            shown = ", ".join(values[:40])
            raise AgentError(code, f"the agent has no {what} `{wanted}`", f"one of {shown}")
        request = self._schema.SetSessionConfigOptionSelectRequest(
            session_id=self._session, config_id=options[0].id, value=wanted
        )
        answer = self._schema.SetSessionConfigOptionResponse
        found = await self._call("session/set_config_option", request, answer, START_S)
        self._opened.config_options = found.config_options or self._opened.config_options

    # ---- the wire

    async def _call(
        self, method: str, request: BaseModel, answer: type[Answer], timeout_s: float | None = None
    ) -> Answer:
        params = request.model_dump(mode="json", by_alias=True, exclude_none=True)
        found = await self._rpc.call(method, params, timeout_s)
        try:
            return answer.model_validate(found)
        except ValueError as error:
            text = f"the agent's answer to {method} is not one: {str(error)[:500]}"
            raise AgentError("agent_protocol", text, "look at the task's log") from error

    def _blocks(self, text: str) -> list[Any]:
        texts = [text]
        if not self._said and self._job.instructions is not None:
            texts.insert(0, self._job.instructions.read_text())
        self._said = True
        return [self._schema.TextContentBlock(type="text", text=each) for each in texts]

    def _ended(self, reason: str, usage: Usage) -> TurnResult:
        text = self._updates.text
        error = None
        match reason:
            case "cancelled":
                return TurnResult("interrupted", text=text, usage=usage)
            case "end_turn" if (error := self._agent.failure(text)) is not None:
                pass
            case "end_turn" if self._updates.worked:
                return TurnResult("completed", text=text, usage=usage)
            case "end_turn":
                error = AgentError(
                    "model_failed", "the agent ended its turn without a word and without doing anything",
                    "some agents tell of a failed model call like this: look at the task's log",
                )  # fmt: skip
            case "refusal":
                error = AgentError("model_refused", "the model refused", "look at the task's transcript")
            case _:
                words = reason.replace("_", " ")
                error = AgentError("model_limit", f"the agent stopped: {words}", "split the task", retryable=False)
        return TurnResult("failed", text=text, error=error, usage=usage)

    async def _spent(self, told: schema.Usage | None) -> Usage:
        cost = self._updates.costs()
        usage = usage_of(told, cost) if told is not None else Usage(cost_usd=cost)
        if usage != Usage():
            await self._host.emit(AgentEvent("usage", {"usage": usage}))
        return usage

    async def _notified(self, method: str, params: dict[str, Any], raw: bytes) -> None:
        if method != "session/update" or self._loading:
            return
        try:
            found = self._schema.SessionNotification.model_validate(params)
        except ValueError:  # of a later version of the protocol
            await self._host.emit(AgentEvent("record", {}, raw=raw))
            return
        await self._updates.take(found.update, params, raw)

    async def _requested(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method != "session/request_permission":
            raise AgentError("agent_protocol", f"not offered: {method}")
        try:
            asked = self._schema.RequestPermissionRequest.model_validate(params)
        except ValueError as error:
            raise AgentError("agent_protocol", f"not a request for permission: {error}") from error
        decision = await self._host.permit(await self._updates.ask(asked.tool_call))
        wanted = "allow" if decision.allowed else "reject"
        chosen = [each for each in asked.options if each.kind.startswith(wanted)]
        chosen.sort(key=lambda option: not option.kind.endswith("once"))
        if self._interrupted or not chosen:
            return {"outcome": {"outcome": "cancelled"}}
        return {"outcome": {"outcome": "selected", "optionId": chosen[0].option_id}}

    def _not_started(self, error: CallError) -> AgentError:
        name = self._agent.name
        if error.code != AUTH_REQUIRED:
            return AgentError("agent_protocol", f"{name} does not start: {error}", "look at the task's log")
        ways = f" ({', '.join(self._sign_in)})" if self._sign_in else ""
        return AgentError(
            "model_auth", f"{name} is not signed in: {_words(error)}",
            f"sign in with {name} itself on this machine{ways}, or give its key in the pool's `env`",
        )  # fmt: skip

    async def _warn(self, text: str, code: str = "") -> None:
        await self._host.emit(AgentEvent("notice", {"level": "warning", "text": text, "code": code}))


def _values_of(option: Any) -> list[str]:
    """The values of a choice, which may be in groups."""
    values: list[str] = []
    for each in option.options:
        values += [one.value for one in each.options] if hasattr(each, "options") else [each.value]
    return values


def _words(error: CallError) -> str:
    details = error.data.get("details") if isinstance(error.data, dict) else None
    return f"{error.message}: {details}" if details and str(details) not in error.message else error.message
