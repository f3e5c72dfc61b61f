"""What an ACP agent tells of its turn, as events: pieces of text become messages, news of a tool its two ends.

The agent's words come in pieces; they are put together until something else comes, and the record of a message
is one update with all of it. Of a tool only the start, when what it was given is known, and the end are told:
the updates between repeat what is already there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from flakes.agents.base import AgentEvent, Host, Question, Usage

if TYPE_CHECKING:
    from acp import schema

_SPOKEN: Final = {"agent_message_chunk": "text", "agent_thought_chunk": "thinking"}
_RECORDS: Final = frozenset({"plan", "plan_update", "plan_removed", "current_mode_update"})
_READS: Final = frozenset({"read", "search", "think"})
_WRITES: Final = frozenset({"edit", "delete", "move"})
_OWN: Final = ("mcp__flakes__", "flakes_", "flakes__", "flakes/", "flakes.")
"""How agents call the tools of our server, which has the name `flakes`."""


class Updates:
    """The updates of one session. `text` is the last message of the turn, `worked` whether there was anything
    in it at all."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._spoken: tuple[str, str] | None = None
        self._pieces: list[str] = []
        self._record: dict[str, Any] = {}
        self._tools: dict[str, dict[str, Any]] = {}
        self._cost = 0.0
        self._cost_told = 0.0
        self.text = ""
        self.worked = False

    def begin(self) -> None:
        """A turn begins."""
        self.text, self.worked = "", False

    async def take(self, update: Any, params: Mapping[str, Any], raw: bytes) -> None:
        """One update: as the library reads it, and as it came."""
        kind: str = update.session_update
        if kind in _SPOKEN:
            await self._piece(kind, update, params)
            return
        await self.finish()
        match kind:
            case "tool_call" | "tool_call_update":
                await self._tool(update, raw)
            case "usage_update":
                if update.cost is not None and update.cost.currency == "USD":
                    self._cost = max(self._cost, update.cost.amount)
            case _ if kind in _RECORDS:
                await self._host.emit(AgentEvent("record", {}, raw=raw))
            case _:
                pass

    async def finish(self) -> None:
        """Tell of the message that was being put together."""
        if self._spoken is None:
            return
        kind, text = self._spoken[0], "".join(self._pieces)
        self._spoken, self._pieces = None, []
        if not text.strip():
            return
        self.worked = True
        if kind == "agent_message_chunk":
            self.text = text
        self._record["update"]["content"]["text"] = text
        raw = json.dumps({"method": "session/update", "params": self._record}, ensure_ascii=False).encode()
        await self._host.emit(AgentEvent(_SPOKEN[kind], {"text": text}, raw=raw))  # pyright: ignore[reportArgumentType]

    async def ask(self, call: schema.ToolCallUpdate, raw: bytes | None = None) -> Question:
        """The question that a request for permission is; tells of the tool's start before."""
        await self.finish()
        merged = self._merged(call)
        await self._start(call.tool_call_id, raw)
        return question(call.tool_call_id, merged)

    def costs(self) -> float | None:
        """What was spent since it was last asked, in dollars; None when the agent never said."""
        if not self._cost:
            return None
        spent, self._cost_told = self._cost - self._cost_told, self._cost
        return max(0.0, spent)

    async def _piece(self, kind: str, update: Any, params: Mapping[str, Any]) -> None:
        spoken = (kind, str(update.message_id or ""))
        if self._spoken != spoken:
            await self.finish()
            self._spoken = spoken
            self._record = json.loads(json.dumps(params))
        if update.content.type == "text":
            self._pieces.append(update.content.text)

    def _merged(self, call: schema.ToolCall | schema.ToolCallUpdate) -> dict[str, Any]:
        """What is known of a tool call so far. An update says only what has changed."""
        known = self._tools.setdefault(call.tool_call_id, {"started": False})
        for name in ("title", "kind", "status", "raw_input", "raw_output", "content", "locations", "field_meta"):
            value = getattr(call, name)
            if value is not None:
                known[name] = value
        return known

    async def _tool(self, call: schema.ToolCallStart | schema.ToolCallProgress, raw: bytes) -> None:
        self.worked = True
        known = self._merged(call)
        ended = known.get("status") in ("completed", "failed")
        given = known.get("raw_input")
        if ended or (given and (set(given) if isinstance(given, dict) else {""}) != {"cwd"}):
            await self._start(call.tool_call_id, None if ended else raw)
        if ended:
            self._tools.pop(call.tool_call_id)
            await self._host.emit(AgentEvent("tool", {
                "state": "end", "id": call.tool_call_id, "name": _name_of(known),
                "ok": known["status"] == "completed" and not _failed(known.get("raw_output")),
                "output": _output_of(known),
            }, raw=raw))  # fmt: skip

    async def _start(self, number: str, raw: bytes | None) -> None:
        known = self._tools[number]
        if not known["started"]:
            known["started"] = True
            told = {"state": "start", "id": number, "name": _name_of(known), "input": known.get("raw_input") or {}}
            await self._host.emit(AgentEvent("tool", told, raw=raw))


def question(number: str, call: Mapping[str, Any]) -> Question:
    """What an agent asks for, from what it said of the tool call."""
    kind, name = call.get("kind"), _name_of(call)
    given = call.get("raw_input")
    details = {"tool": name, "kind": kind, "input": given}
    title = str(call.get("title") or name)
    if kind in _READS or (kind in (None, "other") and name.startswith(_OWN)):
        return Question(number, title, "read", details)
    if kind in _WRITES:
        paths = {str(each.path) for each in call.get("locations") or []}
        paths |= {str(each.path) for each in call.get("content") or [] if each.type == "diff"}
        # What is moved or deleted may be more than the places that are named.
        return Question(number, f"{kind}: {title}", "write", details, tuple(sorted(paths)) if kind == "edit" else ())
    if kind == "execute":
        command = given.get("command") if isinstance(given, dict) else None
        return Question(number, f"run: {command or title}", "execute", details)
    return Question(number, title, "other", details)


def usage_of(found: schema.Usage, cost: float | None) -> Usage:
    """Agents differ in whether the input counts what was cached, and the output what was thought: the total
    tells. How many calls there were is not told."""
    cached, written = found.cached_read_tokens or 0, found.cached_write_tokens or 0
    thought = found.thought_tokens or 0
    rest = found.total_tokens - found.input_tokens - found.output_tokens
    thought_apart = thought if rest in (thought, thought + cached + written) else 0
    cached_apart = cached + written if rest - thought_apart >= cached + written else 0
    return Usage(
        found.input_tokens + cached_apart, cached, written, found.output_tokens + thought_apart, thought, cost
    )


def _name_of(call: Mapping[str, Any]) -> str:
    """The tool's own name where the agent tells it, else what kind it is, else its title."""
    meta = call.get("field_meta") or {}
    own = (meta.get("claudeCode") or {}).get("toolName")
    kind = call.get("kind")
    return str(own or (kind if kind not in (None, "other") else None) or call.get("title") or "tool")


def _failed(output: Any) -> bool:
    metadata = output.get("metadata") if isinstance(output, dict) else None
    return isinstance(metadata, dict) and bool(metadata.get("exit"))


def _output_of(call: Mapping[str, Any]) -> str:
    texts = [
        each.content.text for each in call.get("content") or []
        if each.type == "content" and each.content.type == "text"
    ]  # fmt: skip
    if texts:
        return "\n".join(texts)
    output = call.get("raw_output")
    return "" if output is None else output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
