"""What is read from ACP agents that differ: usage, questions, and which agent a command starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from acp import schema

from flakes.agents.acp_agents import GENERIC, KNOWN, known
from flakes.agents.acp_updates import question, usage_of


@pytest.mark.parametrize(
    ("told", "input_total", "output"),
    [
        ({"input": 60, "output": 10, "total": 110, "cached_read": 40}, 100, 10),
        ({"input": 100, "output": 10, "total": 110, "cached_read": 40}, 100, 10),
        ({"input": 60, "output": 10, "total": 114, "cached_read": 40, "thought": 4}, 100, 14),
        ({"input": 60, "output": 10, "total": 110, "cached_read": 40, "thought": 4}, 100, 10),
        ({"input": 100, "output": 10, "total": 114, "thought": 4}, 100, 14),
        ({"input": 100, "output": 10, "total": 0, "cached_read": 40}, 100, 10),
        ({"input": 5, "output": 1, "total": 6}, 5, 1),
    ],
)
def test_usage_is_read_by_its_total(told: dict[str, int], input_total: int, output: int) -> None:
    usage = usage_of(schema.Usage(**{f"{name}_tokens": value for name, value in told.items()}), 0.5)
    assert (usage.input_total, usage.output) == (input_total, output)
    assert usage.cached_read == told.get("cached_read", 0)
    assert usage.cost_usd == 0.5


@pytest.mark.parametrize(
    ("call", "effect", "paths"),
    [
        ({"kind": "read", "title": "Read a"}, "read", ()),
        ({"kind": "execute", "title": "flakes_x", "raw_input": {"command": "rm -r ."}}, "execute", ()),
        ({"kind": "other", "title": "flakes_workpad_save"}, "read", ()),
        ({"kind": "other", "title": "Tool", "field_meta": {"claudeCode": {"toolName": "mcp__flakes__ask"}}}, "read", ()),
        ({"kind": "other", "title": "mcp__mail__send"}, "other", ()),
        ({"kind": "edit", "title": "Edit", "locations": [schema.ToolCallLocation(path="/a/b")]}, "write", ("/a/b",)),
        ({"kind": "delete", "title": "rm", "locations": [schema.ToolCallLocation(path="/a/b")]}, "write", ()),
        ({"title": "something"}, "other", ()),
    ],
)  # fmt: skip
def test_a_request_becomes_a_question(call: dict[str, Any], effect: str, paths: tuple[str, ...]) -> None:
    asked = question("call_1", call)
    assert (asked.effect, asked.paths) == (effect, paths)


@pytest.mark.parametrize(
    ("text", "code", "retryable"),
    [
        ('{"error": {"message": "no such model", "type": "invalid_request_error"}}\n\n', "model_refused", False),
        ("We\u2019re currently experiencing high demand, which may cause temporary errors.", "model_overloaded", True),
        ("I looked at the error that you sent: it is gone.", None, False),
    ],
)
def test_a_failed_call_in_words_is_one(text: str, code: str | None, retryable: bool) -> None:
    error = KNOWN["codex-acp"].failure(text)
    assert (error.code if error else None) == code
    assert bool(error and error.retryable) is retryable
    assert GENERIC.failure(text) is None


def test_an_agent_is_known_by_its_command(tmp_path: Path) -> None:
    script = tmp_path / "node_modules" / "@agentclientprotocol" / "codex-acp" / "dist" / "index.js"
    script.parent.mkdir(parents=True)
    script.touch()
    assert known(["node", str(script)]) is KNOWN["codex-acp"]
    link = tmp_path / "any-name"
    link.symlink_to(script)
    assert known([str(link)]) is KNOWN["codex-acp"]
    assert known(["opencode", "acp"]) is KNOWN["opencode"]
    assert known(["/home/qwen/bin/other", "--acp"]) is GENERIC
