"""The in-task commands of the ordinary command line: the same as those of the task's own, and closed outside."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest

from cli.conftest import Ran
from flakes.cli.main import cli
from flakes.sandbox.tools.shim.commands import COMMANDS

Flakes = Callable[..., Ran]

BOTH = {("tasks", "list"), ("tasks", "children"), ("tasks", "cancel"), ("tasks", "signal"),
        ("tasks", "outputs"), ("tasks", "workpad", "show")}  # fmt: skip
INSIDE_ONLY = [words for words in COMMANDS if words[0] != "artifacts" and words not in BOTH]
"""Artifacts are stored and fetched outside too, and some commands are about any task there."""


def command_of(words: tuple[str, ...]) -> click.Command:
    found: click.Command = cli
    for word in words:
        assert isinstance(found, click.Group)
        child = found.get_command(click.Context(found), word)
        assert child is not None, words
        found = child
    return found


@pytest.mark.parametrize("words", INSIDE_ONLY, ids=" ".join)
def test_both_take_the_same(words: tuple[str, ...]) -> None:
    command = command_of(words)
    options = {
        name: not parameter.is_flag
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
        if name.startswith("--")
    }
    assert options == COMMANDS[words].options
    counts = [p.nargs for p in command.params if isinstance(p, click.Argument)]
    assert counts == ([-1] if COMMANDS[words].paths or "..." in COMMANDS[words].words else [1] if COMMANDS[words].words else [])


@pytest.mark.parametrize("words", INSIDE_ONLY, ids=" ".join)
def test_outside_a_task_they_refuse_with_a_fix(
    flakes: Flakes, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLAKES_TOOL_SOCKET", raising=False)
    ran = flakes(*words, *(["a"] if COMMANDS[words].paths else []))
    assert (ran.code, ran.out) == (2, "")
    assert "works inside a running task only" in ran.err
    assert "fix: " in ran.err
