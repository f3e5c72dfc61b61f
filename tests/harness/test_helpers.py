"""Everything that authors are told there is, is there; and every error of it says what to do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import flakes.harness
from flakes.harness.cases import Case
from flakes.harness.checking.fixtures import FixtureEngine
from flakes.harness.context import Context
from flakes.harness.definition import Defaults
from flakes.harness.errors import CODES
from flakes.harness.groups import Group
from flakes.harness.replay import Replay
from flakes.harness.surroundings import Task

ROOT = Path(flakes.harness.__file__).parent
HELPERS = ["group", "groups.open", "output.json", "output.text", "output.workspace", "outputs.read_json", "outputs.read_text", "workpads.read", "workpads.save", "workspace.commit", "workspace.promote", "workspace.selected", "workspace.diff", "live_tasks.send", "live_tasks.finish", "live_tasks.rounds", "agent", "command", "all", "any", "quorum", "cancel", "run.roster", "run.messages", "budget.total", "budget.spent", "budget.left", "budget.children", "now", "random", "sleep", "signal", "patched", "phase", "log", "succeeded", "failed", "cancelled", "args", "task"]


@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_is_there(name: str) -> None:
    found: object = Context(Replay(FixtureEngine(Case("case")), "digest", ()), {}, Defaults(), Task("task_test"))
    for part in name.split("."):
        found = getattr(found, part)


def test_groups_live_children_and_results_have_theirs() -> None:
    for name in ("agent", "command", "open", "close", "wait", "state", "cancel", "results"):
        assert hasattr(Group, name)
    for name in ("data", "json", "text", "read", "workspace", "files", "outputs", "ok", "required"):
        assert hasattr(flakes.harness.Result, name) or name == "text"
    assert {"define_harness", "Context", "HarnessError", "ChildFailed"} <= set(flakes.harness.__all__)


def test_every_error_has_a_code_of_the_table_and_a_fix() -> None:
    """Read from the source: an error that no test provokes counts too."""
    count = 0
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "HarnessError"):
                continue
            count += 1
            where = f"{path.name}:{node.lineno}"
            assert len(node.args) >= 3, f"{where} has no fix"
            code, _, fix = node.args[:3]
            if isinstance(code, ast.Constant):
                assert code.value in CODES, where
            assert not (isinstance(fix, ast.Constant) and not fix.value), f"{where} has an empty fix"
    assert count > 50
