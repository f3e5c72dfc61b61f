"""Harnesses run as people run them: every template from its file to its result, budgets, live children, many children."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from e2e.stage import Stage, until
from flakes.harness.starting import TEMPLATES

pytestmark = pytest.mark.timeout(240)

AGENT = Path(__file__).with_name("scripted_agent.py")
EXPECTED: dict[str, tuple[dict[str, str], dict[str, Any], int]] = {
    "paper": ({"rounds": "1", "judges": "2"}, {"paper": "Merge 1", "converged": False}, 6),
    "review-revise": ({"task": "Write"}, {"text": "Revise 1", "rounds": 2, "approved": True}, 4),
    "fanout-fanin": ({"items": '["a", "b"]'}, {"summary": "Item 1 and Item 2", "done": 2, "lost": 0}, 3),
    "autowrite": ({"sections": "2"}, {"text": "Section 1 and Section 2", "sections": ["One", "Two"]}, 4),
    "autoresearch": ({}, {
        "score": 3, "summary": "idea 2",
        "history": ["1: keep, score 1: idea 1", "2: keep, score 3: idea 2", "3: keep, score 2: idea 3"],
    }, 3),
    "review-fix-loop": ({}, {
        "outcome": "accepted-with-nonblocking-findings", "summary": "Fix 1", "patch": "+2", "rounds": 2,
    }, 4),
}  # fmt: skip
"""Arguments, what it comes to, and how many children it has."""


def test_all_are_here() -> None:
    assert set(EXPECTED) == set(TEMPLATES)


@pytest.mark.parametrize("template", EXPECTED)
def test_a_template_runs_from_its_file_to_its_result(session: Stage, tmp_path: Path, template: str) -> None:
    arguments, expected, children = EXPECTED[template]
    defaults = tmp_path / "defaults.json"
    defaults.write_text(json.dumps({"agent": {"adapter": "command", "command": f"{sys.executable} {AGENT}"}}))
    made = session.flakes("harness", "init", "--template", template, "--dir", str(tmp_path), "--json").ok()
    file = made.json["files"][0]
    variables = [word for name, value in arguments.items() for word in ("--var", f"{name}={value}")]
    ran = session.flakes(
        "run", file, "--defaults", str(defaults), "--key", template, "--no-workspace", *variables, timeout_s=120
    )
    assert ran.code == 0, ran.out + ran.err + session.flakes("logs", f"{template}/task").out
    shown = session.flakes("tasks", "result", f"{template}/task", "--output", "result").ok().out
    assert json.loads(shown) == expected
    with session.client() as client:
        tasks = client.all_tasks(template)
    assert [each.status for each in tasks] == ["SUCCEEDED"] * (children + 1)


HEAD = """
import asyncio
from flakes.harness import ChildFailed, Context, HarnessError, define_harness
"""


def submit(session: Stage, key: str, text: str, **more: Any) -> None:
    session.submit(key, [{
        "taskKey": "plan", "adapter": "harness", "toolGrants": ["flakes.tasks.spawn", "flakes.groups"],
        "input": {"source": HEAD + text}, "declaredOutputs": {"result": {"kind": "json", "required": False}}, **more,
    }])  # fmt: skip


def data(session: Stage, key: str, timeout_s: float = 120.0) -> Any:
    session.wait(key, timeout_s)
    with session.client() as client:
        found = client.result(client.task_id(f"{key}/plan"))
    assert found.status == "SUCCEEDED", (found.error, session.flakes("logs", f"{key}/plan").out)
    return json.loads(found.outputs["result"].text or "null")


def questions(session: Stage, key: str) -> list[dict[str, Any]]:
    listed = session.flakes("permissions", "list", "--json").ok().json["permissions"]
    return [each for each in listed if each["runKey"] == key]


def test_a_budget_of_children_asks_and_the_harness_decides_by_what_is_left(session: Stage) -> None:
    submit(session, "children", """
@define_harness
async def main(ctx):
    seen = [await ctx.budget.left("children")]
    while await ctx.budget.left("children") >= 1:
        await ctx.command("true", title=f"Try {ctx.budget.children + 1}")
    seen.append(await ctx.budget.left("children"))
    more = await ctx.all(ctx.command(f"echo {n}", title=f"More {n}") for n in range(2))
    now = await ctx.budget.read()
    seen += [now.left("children"), now.spent("children"), now.limit("children"), now.left("tokens") > 10**9]
    try:
        await ctx.all(ctx.command("true", title=f"Even more {n}") for n in range(2))
    except HarnessError as error:
        return ctx.succeeded(seen=seen, more=[each.text for each in more], code=error.code, why=error.message)
""", budget={"children": 2})  # fmt: skip
    (first,) = until(lambda: questions(session, "children"), 60, "the first question")
    assert first["prompt"].startswith("Extend the budget? The task plan has made 2 of the 2 children"), first
    assert first["action"] == "extend"
    explained = session.flakes("inspect", "children/plan", "--task", "--explain").ok().out
    assert "needs_input" in explained
    session.flakes("permissions", "approve", first["permissionRequestId"]).ok()
    (second,) = until(
        lambda: [each for each in questions(session, "children") if each["details"]["limit"] == 4], 60, "the second question"
    )
    session.flakes("permissions", "deny", second["permissionRequestId"], "--reason", "enough now").ok()
    found = data(session, "children")
    assert found["seen"] == [2, 0, 0, 4, 4, True]
    assert found["more"] == ["0", "1"]
    assert found["code"] == "budget_exhausted"
    assert "enough now" in found["why"]
    with session.client() as client:
        assert len(client.all_tasks("children")) == 5


def test_a_command_in_a_task_sees_its_budget(session: Stage) -> None:
    line = "flakes tasks spawn --key seen-child --shell true > made; flakes budget show"
    session.submit("seen", [{
        "taskKey": "t", "input": {"shell": line}, "toolGrants": ["flakes.tasks.spawn"], "budget": {"children": 3, "tokens": 50},
    }])  # fmt: skip
    assert session.wait("seen").state == "SUCCEEDED"
    out = session.flakes("logs", "seen/t", "--channel", "stdout").ok().out
    assert "tokens\ttask t\t0 of 50\t50 left" in out
    assert "children\ttask t\t1 of 3\t2 left" in out
