"""What went wrong between an agent and its model, in one vocabulary whatever the agent calls it."""

from __future__ import annotations

import re
from typing import Any, Final

from flakes.agents.base import AgentError

_STATUS = re.compile(r"\b([45]\d\d)\b")
_CONTEXT = re.compile(r"context (?:length|window)|maximum context|too many tokens|prompt is too long", re.I)
_NETWORK = re.compile(
    r"econn|enotfound|etimedout|socket|connection (?:error|refused|reset|closed)|network|fetch failed"
    r"|stream disconnected|timed? ?out|unable to connect|error sending request",
    re.I,
)

_FIXES: Final = {
    "model_auth": "sign in with the agent itself on this machine, or give its key in the pool's `env`",
    "model_context": "split the task, or choose a model with a larger context",
    "model_refused": "look at the message; the model's name may be wrong (`model`)",
    "model_network": "look whether this machine reaches the model's provider",
    "model_limit": "wait, or raise the limit at the model's provider",
    "model_overloaded": "try again later, or choose another model",
    "model_failed": "look at the task's transcript",
}


def model_error(message: str, status: int | None = None) -> AgentError:
    """The error for a failed model call, from its HTTP status or, without one, from its words."""
    if status is None and (found := _STATUS.search(message)):
        status = int(found[1])
    code, retryable = _code_of(message, status)
    details: dict[str, Any] = {} if status is None else {"httpStatus": status}
    return AgentError(
        code, f"the model call failed: {message[:1500]}", _FIXES[code], retryable, details=details or None
    )


def _code_of(message: str, status: int | None) -> tuple[str, bool]:
    if status in (401, 403):
        return "model_auth", False
    if status == 402 or status == 429:
        return "model_limit", True
    if _CONTEXT.search(message):
        return "model_context", False
    if status in (408, 409) or (status is None and _NETWORK.search(message)):
        return "model_network", True
    if status is not None and status >= 500:
        return "model_overloaded", True
    if status is not None:
        return "model_refused", False
    return "model_failed", False
