"""Transcripts: what an agent and whoever spoke to it said and did, in one form for every agent, and natively.

An entry has a kind and its data; `raw` is the agent's own record where it has one, as a line of text. Kinds:
`prompt` {text, source: brief|follow_up|correction|resume|interrupt|budget, messageId?}, `steer` {text,
messageId}, `text` {text} and `thinking` {text} of the agent, `tool` {state: start|end, id, name, input |
output, ok}, `usage` {usage}, `question` {id, title, effect} and its `decision` {id, allowed, by, reason},
`notice` {level, text}, `session` {kind, value, resumed}, `turn` {status, error?, usage?}, and `record` {}
(nothing but `raw`). Long texts are cut in the common form and whole in the native one. A native record too
long for one entry goes on in the next (`more`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from flakes.wire.codec import Frozen

Kind = Literal[
    "prompt", "steer", "text", "thinking", "tool", "usage", "question", "decision", "notice", "session",
    "turn", "record",
]  # fmt: skip


class AgentUsage(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens, cost and time. `inputTotal` includes what was cached, `output` the reasoning. `costMicroUsd` null:
    no agent said what it cost."""

    input_total: int = 0
    cached_read: int = 0
    cached_write: int = 0
    output: int = 0
    reasoning: int = 0
    cost_micro_usd: int | None = None
    calls: int = 0
    worked_ms: int = 0
    """Milliseconds at work, questions to people aside."""

    @property
    def tokens(self) -> int:
        """What a budget counts: everything that went in and came out."""
        return self.input_total + self.output


class EntryBody(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """An entry as it is sent and stored. `at_ms`: Unix milliseconds on the sandbox's clock."""

    at_ms: int
    kind: Kind
    data: dict[str, Any] = {}
    raw: str | None = None
    more: bool = False
    """The native record goes on in the next entry."""


class TranscriptEntry(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a task's transcript; `cursor` resumes after it."""

    cursor: str
    at: datetime
    assignment_id: str
    kind: Kind
    data: dict[str, Any]


class Transcript(Frozen, frozen=True, kw_only=True):
    """A page of entries of all attempts, oldest first. `nextCursor` is there even at the end: pass it to
    follow."""

    entries: list[TranscriptEntry]
    next_cursor: str | None = None
