"""What a task sees of the messages sent to it: the lines of ``$FLAKES_INBOX``, and the operations on them.

These operations are the sandbox's own: it answers them itself, and tells the control plane what was
consumed as part of its stream.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen

WAIT_S_MAX = 25.0


class InboxMessage(Frozen, frozen=True, kw_only=True):
    """One line of the file. `at` is the sandbox's time when it was written."""

    id: str
    mode: Literal["follow_up", "steer", "interrupt"]
    text: str
    at: datetime


class InboxRead(Body, frozen=True, kw_only=True):
    """Ask for what is not acknowledged; wait this long for a first message when there is none."""

    wait_s: Annotated[float, Meta(ge=0, le=WAIT_S_MAX)] = 0.0


class InboxMessages(Frozen, frozen=True, kw_only=True):
    """Unacknowledged messages, oldest first."""

    messages: list[InboxMessage]


class InboxConsume(Body, frozen=True, kw_only=True):
    """Acknowledge these."""

    message_ids: Annotated[list[str], Meta(max_length=limits.MESSAGES_UNREAD_MAX)]


class InboxConsumed(Frozen, frozen=True, kw_only=True):
    """Those that were not acknowledged before."""

    message_ids: list[str]
