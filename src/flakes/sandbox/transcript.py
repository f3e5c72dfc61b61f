"""A task's transcript: entries in, numbered chunks out, each byte said once (F11).

Every entry passes here, so here is where secrets are taken out: those of known shapes, and the very values
that the agent was given to sign in with. A native record that is JSON is redacted as the value it is, so
that it stays JSON. What an attempt has spent so far goes with the chunk that tells of it.

Invariants: numbers have no gaps. No message is larger than a frame may be, whatever the content: the common
form of a long text is cut and says so, a long native record continues in the entries that follow.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec

from flakes.agents.base import AgentEvent, SessionRef, Usage
from flakes.core.limits import KIB
from flakes.core.redaction import MARK, redact, redact_value
from flakes.sandbox.outbox import Outbox
from flakes.wire.codec import encode
from flakes.wire.sandbox_stream import TranscriptChunk
from flakes.wire.transcripts import AgentUsage, EntryBody, Kind

TEXT_LENGTH_MAX: Final = 64 * KIB
RAW_LENGTH_MAX: Final = 96 * KIB
"""Characters of a native record in one entry: escaped six times over it still fits into a frame."""
CUT: Final = " [cut here; the native record has all of it]"
DELAY_S: Final = 0.05
GATHERED_MAX: Final = 128 * KIB
CHUNK_BYTES_MAX: Final = 512 * KIB
SECRET_LENGTH_MIN: Final = 12


class TranscriptSink:
    """The transcript of one attempt, on its way into the outbox."""

    def __init__(self, assignment_id: str, outbox: Outbox, secrets: Collection[str] = ()) -> None:
        self._assignment_id = assignment_id
        self._outbox = outbox
        self._secrets = tuple(s for s in secrets if len(s) >= SECRET_LENGTH_MIN)
        self._gathered: list[EntryBody] = []
        self._gathered_size = 0
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None
        self._flushed_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._news = False
        self.usage = Usage()
        """What the attempt has spent so far."""
        self.worked_ms: Callable[[], int] = lambda: 0

    async def take(self, event: AgentEvent) -> None:
        """Record an event of the agent. Waits while the control plane is there and behind."""
        await self._outbox.room(self._assignment_id)
        data: dict[str, Any] = dict(event.data)
        match event.kind:
            case "output":
                return
            case "usage":
                spent: Usage = data["usage"]
                self.usage += spent
                self._news = True
                data = {"usage": msgspec.to_builtins(agent_usage(spent))}
            case "session":
                session: SessionRef = data["session"]
                data = {"kind": session.kind, "value": session.value, "resumed": data.get("resumed", False)}
            case _:
                pass
        self.add(event.kind, data, event.raw)

    def add(self, kind: Kind, data: Mapping[str, Any], raw: bytes | None = None) -> None:
        """Record something; of the sandbox's own, when there is no `raw`."""
        at_ms = time.time_ns() // 1_000_000
        records = self._records(raw)
        fitted = _fitted(self._clean(dict(data)))
        for index, record in enumerate(records or [None]):
            last = index == len(records) - 1
            entry = EntryBody(
                at_ms=at_ms, kind=kind if index == 0 else "record", data=fitted if index == 0 else {},
                raw=record, more=record is not None and not last,
            )  # fmt: skip
            self._gathered.append(entry)
            self._gathered_size += len(record or "") + 256 + len(str(entry.data))
        if self._gathered_size > GATHERED_MAX:
            self.flush()
        elif self._timer is None:
            due = max(self._flushed_at + DELAY_S, self._loop.time())
            self._timer = self._loop.call_at(due, self.flush)

    def tell_usage(self) -> None:
        """Say with the next entries what was spent so far, also when that is nothing but time."""
        self._news = True

    def _told_usage(self) -> AgentUsage:
        return msgspec.structs.replace(agent_usage(self.usage), worked_ms=self.worked_ms())

    def flush(self) -> None:
        """Append everything that was gathered to the outbox."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flushed_at = self._loop.time()
        entries, self._gathered, self._gathered_size = self._gathered, [], 0
        if entries:
            usage, self._news = self._told_usage() if self._news else None, False
            self._append(entries, usage)

    def _append(self, entries: list[EntryBody], usage: AgentUsage | None) -> None:
        body = encode(TranscriptChunk(
            assignment_id=self._assignment_id, first_entry=self._next, entries=entries, usage=usage
        ))  # fmt: skip
        if len(body) > CHUNK_BYTES_MAX and len(entries) > 1:
            middle = len(entries) // 2
            self._append(entries[:middle], None)
            self._append(entries[middle:], usage)
            return
        self._next += len(entries)
        self._outbox.append(self._assignment_id, body)

    def _records(self, raw: bytes | None) -> list[str]:
        if raw is None:
            return []
        text = raw.decode("utf-8", "replace").replace("\0", "\ufffd")
        redacted = self._plain(text)
        if redacted != text:
            try:
                text = json.dumps(self._clean(json.loads(text)), ensure_ascii=False)
            except ValueError:
                text = redacted
        return [text[at : at + RAW_LENGTH_MAX] for at in range(0, len(text), RAW_LENGTH_MAX)] or [""]

    def _plain(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MARK)
        return redact(text)

    def _clean(self, value: Any) -> Any:
        if self._secrets:
            value = _mapped(value, lambda text: self._known(text))
        return redact_value(value)

    def _known(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MARK)
        return text


def agent_usage(usage: Usage) -> AgentUsage:
    """Usage as it crosses the wire; the cost in millionths of a dollar, as a whole number."""
    return AgentUsage(
        input_total=usage.input_total, cached_read=usage.cached_read, cached_write=usage.cached_write,
        output=usage.output, reasoning=usage.reasoning, calls=usage.calls,
        cost_micro_usd=None if usage.cost_usd is None else round(usage.cost_usd * 1_000_000),
    )  # fmt: skip


def _fitted(value: Any) -> Any:
    """The value with long texts cut; NULs, which no database takes, replaced."""
    return _mapped(value, lambda text: (
        text if len(text) <= TEXT_LENGTH_MAX else text[:TEXT_LENGTH_MAX] + CUT
    ).replace("\0", "\ufffd"))  # fmt: skip


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(str(name)): _mapped(each, change) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(each, change) for each in value]
    return value
