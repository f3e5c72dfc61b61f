"""`flakes harness`: templates, rules, types, cases and replays; and the skill."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from flakes.cli.main import run_cli
from flakes.harness import errors
from flakes.harness.checking.rules import look
from flakes.harness.starting import TEMPLATES

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = {"agent": {"adapter": "pi"}}


def flakes(*argv: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    return run_cli(argv, out, err), out.getvalue(), err.getvalue()


@pytest.fixture
def no_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flakes.harness.checking.typing.CHECKERS", ())


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_passes_its_own_check(template: str, tmp_path: Path, no_types: None) -> None:
    assert flakes("harness", "init", "--template", template, "--dir", str(tmp_path))[0] == 0
    defaults = tmp_path / "defaults.json"
    defaults.write_text(json.dumps(DEFAULTS))
    file = tmp_path / f"{template.replace('-', '_')}.py"
    code, out, err = flakes("harness", "check", str(file), "--defaults", str(defaults), "--json")
    checked = json.loads(out)
    assert code == 0, checked
    assert [each["status"] for each in checked["stages"]] == ["passed", "skipped", "passed", "passed"]
    assert checked["diagnostics"] == []
    assert all(each["replay"] == "passed" and each["attempts"] > 1 for each in checked["cases"])
    assert not err

    # As it was written, with nothing else: it says that it needs an adapter, and passes.
    code, out, _ = flakes("harness", "check", str(file), "--json")
    checked = json.loads(out)
    assert code == 0, checked
    assert {(each["code"], each["severity"]) for each in checked["diagnostics"]} == {("child_adapter_missing", "warning")}


def test_types_are_checked_where_a_checker_is_installed(tmp_path: Path) -> None:
    file = tmp_path / "plan.py"
    file.write_text(
        "from flakes.harness import Context, define_harness\n\n@define_harness\nasync def main(ctx: Context):\n"
        '    text = await ctx.agent("x", adapter="pi", output=str)\n    return ctx.succeeded(n=text.data + 1)\n'
    )
    code, out, _ = flakes("harness", "check", str(file), "--json")
    found = json.loads(out)
    types = next(each for each in found["stages"] if each["stage"] == "types")
    if types["status"] == "skipped":
        pytest.skip(types["reason"])
    assert code == 1
    assert [(each["code"], each["line"]) for each in found["diagnostics"]] == [("type_error", 6)]


RULES = [
    ("import time\n", "x = time.time()", "harness_nondeterministic", "ctx.now()"),
    ("from datetime import datetime\n", "x = datetime.now()", "harness_nondeterministic", "ctx.now()"),
    ("import random\n", "x = random.choice([1])", "harness_nondeterministic", "ctx.random()"),
    ("from uuid import uuid4\n", "x = uuid4()", "harness_nondeterministic", "ctx.random()"),
    ("import os\n", "x = os.environ['A']", "harness_nondeterministic", "ctx.args"),
    ("", "x = open('f')", "harness_nondeterministic", "child"),
    ("import httpx\n", "pass", "harness_import_refused", "standard library"),
    ("import subprocess\n", "pass", "harness_import_refused", "child"),
    ("from .missing import x\n", "pass", "harness_import_refused", "same directory"),
    ("", "ctx.sleep(3)", "harness_not_awaited", "await"),
    ("", "ctx.all([])", "harness_not_awaited", "await"),
    ("", "ctx.command('x', key='Not a key')", "child_invalid", "'not-a-key'"),
    ("", "ctx.group('g', join='most')", "child_invalid", "all_success"),
    ("", "ctx.agent('x')", "child_adapter_missing", "adapter"),
    ("", "[each for each in {1, 2}]", "harness_nondeterministic", "sorted"),
]


@pytest.mark.parametrize(("head", "line", "code", "fix"), RULES)
def test_rules_name_the_line_and_the_fix(head: str, line: str, code: str, fix: str) -> None:
    text = f"{head}from flakes.harness import define_harness\n@define_harness\nasync def main(ctx):\n    {line}\n    return ctx.succeeded()\n"
    found = look(text, "plan.py", None, frozenset())
    assert [each.code for each in found] == [code]
    assert fix in found[0].fix
    assert found[0].line == (1 if code == "harness_import_refused" else 4 + bool(head))


@pytest.mark.parametrize(
    "text",
    [
        "x = (", "x = 1\n", "from flakes.harness import define_harness\n@define_harness\ndef main(ctx):\n    return 1\n",
        "from flakes.harness import define_harness\n@define_harness\nasync def main():\n    return 1\n",
        "from flakes.harness import define_harness\n@define_harness\nasync def main(ctx):\n    pass\n",
    ],
)  # fmt: skip
def test_what_is_no_harness_is_said(text: str) -> None:
    assert {each.code for each in look(text, "plan.py", None, frozenset())} == {"harness_invalid"}


CASES = """
from flakes.harness.cases import Case, Done
CASES = [Case("wrong", lambda child: Done(), data={"n": 2}, count=1), Case("right", data={"n": 1})]
"""
MODULE = """from flakes.harness import define_harness
from .helpers import number

seen = []

@define_harness
async def main(ctx):
    await ctx.sleep(1)
    return ctx.succeeded(n=number())
"""


def test_cases_that_fail_and_files_beside_the_module(tmp_path: Path, no_types: None) -> None:
    (tmp_path / "plan.py").write_text(MODULE)
    (tmp_path / "helpers.py").write_text("def number():\n    return 1\n")
    (tmp_path / "plan_cases.py").write_text(CASES)
    code, out, _ = flakes("harness", "check", str(tmp_path / "plan.py"), "--json")
    found = json.loads(out)
    assert code == 1
    assert [(each["name"], each["status"]) for each in found["cases"]] == [("wrong", "failed"), ("right", "passed")]
    assert len(found["diagnostics"]) == 2
    code, out, err = flakes("harness", "check", str(tmp_path / "plan.py"))
    assert code == 1
    assert "it began 0 children, not 1 [case_failed]" in err


def test_a_module_that_keeps_something_between_runs_fails_its_replay(tmp_path: Path, no_types: None) -> None:
    import sys

    (tmp_path / "plan.py").write_text(
        "import sys\nfrom flakes.harness import define_harness\n\n@define_harness\nasync def main(ctx):\n"
        "    await ctx.command('x')\n    sys.flakes_test = getattr(sys, 'flakes_test', 0) + 1\n"
        "    return ctx.succeeded(n=sys.flakes_test)\n"
    )
    (tmp_path / "plan_cases.py").write_text("from flakes.harness.cases import Case\nCASES = [Case('one')]\n")
    try:
        code, out, _ = flakes("harness", "check", str(tmp_path / "plan.py"), "--json")
    finally:
        del sys.flakes_test  # pyright: ignore[reportAttributeAccessIssue]
    found = json.loads(out)
    assert code == 1
    assert found["cases"][0]["replay"] == "failed"
    assert found["diagnostics"][0]["code"] == "harness_diverged"


def test_init_does_not_overwrite(tmp_path: Path) -> None:
    assert flakes("harness", "init", "--dir", str(tmp_path), "--file", "mine.py")[0] == 0
    assert (tmp_path / "mine_cases.py").exists()
    (tmp_path / "mine.py").write_text("# mine")
    code, _, err = flakes("harness", "init", "--dir", str(tmp_path), "--file", "mine.py")
    assert code == 2
    assert "--force" in err
    assert flakes("harness", "init", "--dir", str(tmp_path), "--file", "mine.py", "--force")[0] == 0
    code, _, err = flakes("harness", "init", "--template", "papr")
    assert code == 2
    assert "paper" in err


def test_docs_are_printed_whole_and_by_topic() -> None:
    whole = flakes("harness", "docs")[1]
    assert whole.startswith("# Harnesses")
    topics = flakes("harness", "docs", "--list")[1].split()
    assert "children" in topics
    assert flakes("harness", "docs", "children")[1].startswith("## Children")
    assert flakes("harness", "docs", "childen")[0] == 2


def test_the_skill_is_installed_once_and_kept_when_changed(tmp_path: Path) -> None:
    def install(*more: str) -> tuple[int, str, str]:
        return flakes("skill", "install", "--dir", str(tmp_path), "--json", *more)

    assert json.loads(install()[1])["status"] == "installed"
    assert json.loads(install()[1])["status"] == "unchanged"
    skill = tmp_path / "flakes" / "SKILL.md"
    assert re.match(r"---\nname: flakes\ndescription: .+\n---\n", skill.read_text())
    for name in re.findall(r"`references/([\w-]+\.md)`", skill.read_text()):
        assert (tmp_path / "flakes" / "references" / name).exists()
    skill.write_text("mine")
    assert install()[0] == 2
    assert json.loads(install("--force")[1])["status"] == "updated"


def test_every_code_is_in_the_table() -> None:
    pattern = re.compile(r"(?:HarnessError|Finding|finding|_at)\(\s*(?:\w+, )?\"([a-z_]+)\"")
    used = {
        code for path in (ROOT / "src/flakes/harness").rglob("*.py") for code in pattern.findall(path.read_text())
    }  # fmt: skip
    assert used - set(errors.CODES) == set()
    assert len(used) > 20
