"""Permission requests: a running task asks, a person answers, once.

A request belongs to the attempt that asked and ends with it (`cancelled`). One that nobody answers before
`expiresAt` is `expired`, and then its default is the decision.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen

Decision = Literal["approved", "denied"]
Status = Literal["pending", "approved", "denied", "expired", "cancelled"]


class PermissionAsk(Body, frozen=True, kw_only=True):
    """What a task asks. `operationId` is the asker's own name for this question: asking again under it is
    answered with the same request. Without `expiresInS` it waits for as long as the attempt runs."""

    operation_id: Annotated[str, Meta(min_length=1, max_length=200)]
    prompt: Annotated[str, Meta(min_length=1, max_length=limits.PERMISSION_PROMPT_LENGTH_MAX)]
    action: Annotated[str, Meta(max_length=limits.PERMISSION_TEXT_LENGTH_MAX)] | None = None
    details: dict[str, Any] = {}
    expires_in_s: Annotated[float, Meta(gt=0, le=limits.PERMISSION_EXPIRY_S_MAX)] | None = None
    default: Decision = "denied"


class PermissionPoll(Body, frozen=True, kw_only=True):
    """How a request stands; a pending one is looked at again until it is answered or `waitS` is over."""

    permission_request_id: str
    wait_s: Annotated[float, Meta(ge=0, le=limits.PERMISSION_WAIT_S_MAX)] = 0.0


class PermissionAnswer(Body, frozen=True, kw_only=True):
    """Body of an answer."""

    decision: Decision
    reason: Annotated[str, Meta(max_length=limits.PERMISSION_TEXT_LENGTH_MAX)] | None = None


class Permission(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A request. `decision` is what the asker may act on: the answer, or the default once expired."""

    permission_request_id: str
    task_id: str
    task_key: str
    run_id: str
    run_key: str
    assignment_id: str
    prompt: str
    action: str | None = None
    details: dict[str, Any] = {}
    status: Status
    decision: Decision | None = None
    reason: str | None = None
    default: Decision | None = None
    """There is one only when the request can expire."""
    expires_at: datetime | None = None
    created_at: datetime
    ended_at: datetime | None = None


class Permissions(Frozen, frozen=True, kw_only=True):
    """A page of requests, newest first."""

    permissions: list[Permission]
    next_cursor: str | None = None
