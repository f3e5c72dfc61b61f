"""Live rounds: a child that stays up between prompts, and what each prompt came to.

The parent sends prompts and says when there will be no more; the child takes them one after the other and
completes each with outputs. A prompt is the same round until it is over: whatever breaks meanwhile, the next
attempt of the child is given it again, and it is completed once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen
from flakes.wire.groups import Reference
from flakes.wire.tasks import TaskError

State = Literal["PROMPTED", "COMPLETED", "FAILED", "CANCELLED"]
LiveState = Literal["STARTING", "RUNNING_ROUND", "AWAITING_INPUT", "FINISHING"]
RoundKey = Annotated[str, Meta(min_length=1, max_length=limits.KEY_LENGTH_MAX)]


class RoundSend(Body, frozen=True, kw_only=True):
    """A prompt to a live child (by id or key). The same `operationId` is the same round; without a key it gets
    `round-N`."""

    operation_id: Annotated[str, Meta(min_length=1, max_length=200)]
    task: Reference
    prompt: Annotated[str, Meta(min_length=1, max_length=limits.ROUND_PROMPT_LENGTH_MAX)]
    round_key: RoundKey | None = None
    payload: Any = None


class RoundPost(Body, frozen=True, kw_only=True):
    """A prompt of a person to a live task; with an `operationId`, the same one is the same round."""

    prompt: Annotated[str, Meta(min_length=1, max_length=limits.ROUND_PROMPT_LENGTH_MAX)]
    round_key: RoundKey | None = None
    payload: Any = None
    operation_id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class RoundNext(Body, frozen=True, kw_only=True):
    """Asked by the child: the oldest round that is not over. Without one the request is held for `holdS`; if
    there is none by then and `yields`, the child should end its attempt (a command with exit code 75), and goes
    on when one has come."""

    hold_s: Annotated[float, Meta(ge=0, le=limits.WAIT_HOLD_S_MAX)] = 0.0
    yields: bool = True


class RoundOutput(Body, frozen=True, kw_only=True, omit_defaults=True):
    """What a round leaves under a key. `workspace` outputs hold a handle as JSON."""

    kind: Literal["text", "json", "workspace"] = "text"
    text: str


class RoundComplete(Body, frozen=True, kw_only=True):
    """Asked by the child: the round is over. Again with the same content changes nothing."""

    round_key: RoundKey
    state: Literal["COMPLETED", "FAILED"] = "COMPLETED"
    text: Annotated[str, Meta(max_length=limits.ROUND_PROMPT_LENGTH_MAX)] = ""
    outputs: Annotated[dict[str, RoundOutput], Meta(max_length=limits.DECLARED_OUTPUTS_MAX)] = {}
    error: TaskError | None = None


class RoundName(Body, frozen=True, kw_only=True):
    """A round of a live child, or of this task when `task` is left out."""

    round_key: RoundKey
    task: Reference | None = None


class RoundsRead(Body, frozen=True, kw_only=True):
    """The rounds of a live child, or of this task when `task` is left out."""

    task: Reference | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=limits.PAGE_LENGTH_MAX)] = limits.PAGE_LENGTH_DEFAULT


class LiveChild(Body, frozen=True, kw_only=True):
    """A live child, by id or key."""

    task: Reference


class RoundOutputShown(Frozen, frozen=True, kw_only=True):
    """An output in a list: its bytes are fetched by themselves."""

    kind: Literal["text", "json", "workspace"]
    size_bytes: int


class Round(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A round. `outputs` are there when one round is read, `outputSizes` in lists too."""

    round_id: str
    round_key: str
    task_id: str
    ordinal: int
    state: State
    prompt: str
    payload: Any = None
    text: str = ""
    outputs: dict[str, RoundOutput] = {}
    output_sizes: dict[str, RoundOutputShown] = {}
    error: TaskError | None = None
    created_at: datetime
    delivered_at: datetime | None = None
    ended_at: datetime | None = None


class Rounds(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """Rounds of a task, oldest first. `liveState` is None once the task has ended."""

    rounds: list[Round]
    live_state: LiveState | None = None
    next_cursor: str | None = None


class RoundGiven(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """What a live child is to do: a round; or end for good (`finishing`); or, with neither, ask again later."""

    round: Round | None = None
    finishing: bool = False


class RoundWorkspace(Frozen, frozen=True, kw_only=True):
    """The handle of a workspace that a round left."""

    handle: Any
