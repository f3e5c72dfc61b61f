"""Messages of people to a running task.

A message is for the attempt that runs when it is sent. It goes `queued` → `delivered` (in the agent's
hands) → `consumed` (taken in by it); one that an attempt leaves behind becomes `undeliverable`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from flakes.wire.codec import Body, Frozen

Mode = Literal["follow_up", "steer", "interrupt"]
State = Literal["queued", "delivered", "consumed", "undeliverable"]


class MessagePost(Body, frozen=True, kw_only=True):
    """`follow_up` adds something, `steer` changes direction, `interrupt` ends what the agent does now and is
    what it hears next. The text is trimmed; 1 to 20,000 characters."""

    mode: Mode
    message: str


class Message(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A message and what became of it. `reason` says why one is `undeliverable`."""

    message_id: str
    task_id: str
    assignment_id: str
    mode: Mode
    message: str
    state: State
    reason: str | None = None
    created_at: datetime
    delivered_at: datetime | None = None
    consumed_at: datetime | None = None
    ended_at: datetime | None = None


class Messages(Frozen, frozen=True, kw_only=True):
    """A page of messages, newest first."""

    messages: list[Message]
    next_cursor: str | None = None
