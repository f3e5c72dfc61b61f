"""What a task may wait for without keeping its slot: a group, children, a time, a signal.

A wait is stored before it is answered, and named by its operation id, which is the asker's own: asking again
under it, in a later attempt too, is asking for the same wait. It is first *held*: the answer comes when it is
settled, or after `holdS`. An answer that is still `pending` to a request with `yields` means: end the attempt
now (a command with exit code 75), and the task goes on in another attempt once the wait is settled.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen
from flakes.wire.groups import Join, Members, Reference, Status

Kind = Literal["group", "children", "timer", "signal", "round", "prompt"]
"""`prompt` is what a live task yields for that has no round to do."""
State = Literal["pending", "settled", "timed_out", "cancelled"]
SignalName = Annotated[str, Meta(min_length=1, max_length=limits.KEY_LENGTH_MAX)]


class OnGroup(Body, frozen=True, kw_only=True, tag_field="kind", tag="group"):
    """A closed group of this task, until it is settled."""

    group: Reference


class OnChildren(Body, frozen=True, kw_only=True, tag_field="kind", tag="children"):
    """Children by id or key (none named: all there are now), until the rule is decided; or, with `threshold`,
    until so many have ended in whatever way."""

    tasks: Annotated[list[Reference], Meta(max_length=limits.CHILDREN_MAX)] = []
    join: Join = "all_settled"
    quorum: Annotated[int, Meta(ge=1)] | None = None
    threshold: Annotated[int, Meta(ge=1)] | None = None


class OnTimer(Body, frozen=True, kw_only=True, tag_field="kind", tag="timer"):
    """So long from the first time this is asked for."""

    seconds: Annotated[float, Meta(ge=0, le=limits.WAIT_S_MAX)]


class OnSignal(Body, frozen=True, kw_only=True, tag_field="kind", tag="signal"):
    """The oldest signal of that name which no other wait has taken."""

    name: SignalName


class OnRound(Body, frozen=True, kw_only=True, tag_field="kind", tag="round"):
    """A round of a live child."""

    task: Reference
    round_key: SignalName


On = OnGroup | OnChildren | OnTimer | OnSignal | OnRound


class WaitFor(Body, frozen=True, kw_only=True):
    """See the module. After `timeoutS`, counted from the first time, the wait is `timed_out`."""

    operation_id: Annotated[str, Meta(min_length=1, max_length=200)]
    on: On
    hold_s: Annotated[float, Meta(ge=0, le=limits.WAIT_HOLD_S_MAX)] = 0.0
    timeout_s: Annotated[float, Meta(gt=0, le=limits.WAIT_S_MAX)] | None = None
    yields: bool = True


class Wait(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A wait and what became of it. `verdict` is how the group ended, or what the rule says of the children."""

    wait_id: str
    operation_id: str
    task_id: str
    kind: Kind
    state: State
    verdict: Status | None = None
    counts: Members | None = None
    """Of the group or the children, when the wait was settled."""
    stalled: list[str] = []
    """Keys of tasks that are blocked for good, when the wait is over because it could never be satisfied; its verdict
    is `FAILED` then."""
    group_id: str | None = None
    signal_name: str | None = None
    round_id: str | None = None
    payload: Any = None
    """What the signal carried."""
    due_at: datetime | None = None
    """When the timer fires, or the wait times out."""
    created_at: datetime
    settled_at: datetime | None = None


class Happened(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt goes on after: a wait that an earlier one had yielded for."""

    operation_id: str
    kind: Kind
    state: State
    verdict: Status | None = None
    name: str | None = None
    """Of the group or the signal."""


class Waits(Frozen, frozen=True, kw_only=True):
    """A page of waits, newest first."""

    waits: list[Wait]
    next_cursor: str | None = None


class SignalPost(Body, frozen=True, kw_only=True):
    """What a signal carries; at most 64 KiB of JSON."""

    payload: Any = None


class Signal(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A signal that is stored. `consumed` ones were taken by a wait."""

    signal_id: str
    task_id: str
    name: str
    state: Literal["queued", "consumed"]
    payload: Any = None
    created_at: datetime


class SignalSend(Body, frozen=True, kw_only=True):
    """A signal from this task to its parent or one of its children (by id or key). The same `operationId` is
    the same signal."""

    operation_id: Annotated[str, Meta(min_length=1, max_length=200)]
    task: Reference
    name: SignalName
    payload: Any = None
