"""Cases of a harness: what its children would do, and what has to come of it.

A file of cases, `NAME_cases.py` beside `NAME.py`, is ordinary Python with a list `CASES`:

    from flakes.harness.cases import Case, Done, Failed

    def children(child):
        if child.title.startswith("Draft"):
            return Done(f"draft {child.ordinal}")
        return Done(outputs={"result": {"winner": 1}})

    CASES = [Case("the best wins", children=children, data={"winner": 1}, count=4)]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class FixtureChild:
    """A child as the checker sees it. `ordinal` counts the children of the case from 0; `prompt` is its brief,
    `command` what a command child runs; `inputs` are the keys of the children that it depends on."""

    key: str
    title: str
    adapter: str
    prompt: str
    command: str
    ordinal: int
    group: str | None
    inputs: Sequence[str]
    outputs: Sequence[str]
    definition: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """The child succeeds: its closing words, and its outputs by key (text, or JSON values). `files` are what a
    workspace output of it holds, `workpad` what it has noted."""

    text: str = ""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    workpad: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The child fails."""

    reason: str = "it failed"
    code: str = "agent_failed"


Fixture = Done | Failed


@dataclass(frozen=True, slots=True)
class Case:
    """One case. `children` says what each child does; `round` what a live child does with a message (the child,
    the message, and how many rounds it had). `signals` are those that were sent, by name, in order. Expected are
    the `status`, and where given the `data`, the `count` of children, the code of the `error`, the keys of
    the children whose files were promoted. `files` are those that the run begins with, `budget` what bounds the harness (an owner who is asked for
    more denies it)."""

    name: str
    children: Callable[[FixtureChild], Fixture] = lambda _: Done()
    args: Any = None
    round: Callable[[FixtureChild, str, int], Fixture] = lambda *_: Done()
    signals: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    budget: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    status: Literal["succeeded", "failed", "cancelled"] = "succeeded"
    data: Mapping[str, Any] | None = None
    count: int | None = None
    error: str | None = None
    promotions: Sequence[str] | None = None
