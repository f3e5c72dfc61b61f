"""What `flakes harness check` says of modules that are wrong: the line, a code, and what to do."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from flakes.cli.main import run_cli
from flakes.harness.errors import CODES

TOP = "from flakes.harness import Context, define_harness\n"
MAIN = "@define_harness\nasync def main(ctx: Context):\n"
END = "    return ctx.succeeded()\n"


def body(line: str, imports: str = "") -> str:
    """A module whose fourth line (behind the imports) is this one."""
    return f"{imports}{TOP}{MAIN}    {line}\n{END}"


WRONG: dict[str, tuple[str, str, int, str]] = {
    "syntax": (TOP + MAIN + "    x = (\n", "harness_invalid", 4, "mend"),
    "no harness": (TOP + "x = 1\n", "harness_invalid", 1, "async def main(ctx)"),
    "two harnesses": (TOP + MAIN + END + MAIN.replace("main", "other") + END, "harness_invalid", 6, "keep one"),
    "not async": (TOP + "@define_harness\ndef main(ctx):\n    return ctx.succeeded()\n", "harness_invalid", 3, "async def main(ctx)"),
    "two arguments": (TOP + "@define_harness\nasync def main(ctx, args):\n" + END, "harness_invalid", 3, "ctx.args"),
    "no outcome": (TOP + MAIN + "    await ctx.sleep(1)\n", "harness_invalid", 3, "ctx.succeeded"),
    "package": (body("pass", "import requests\n"), "harness_import_refused", 1, "standard library"),
    "processes": (body("pass", "import subprocess\n"), "harness_import_refused", 1, "child"),
    "network": (body("pass", "from urllib.request import urlopen\n"), "harness_import_refused", 1, "child"),
    "missing file": (body("pass", "from .missing import x\n"), "harness_import_refused", 1, "same directory"),
    "clock": (body("x = time.time()", "import time\n"), "harness_nondeterministic", 5, "ctx.now()"),
    "another clock": (body("x = datetime.now()", "from datetime import datetime\n"), "harness_nondeterministic", 5, "ctx.now()"),
    "sleep": (body("time.sleep(1)", "import time\n"), "harness_nondeterministic", 5, "ctx.sleep"),
    "dice": (body("x = random.choice([1, 2])", "import random\n"), "harness_nondeterministic", 5, "ctx.random()"),
    "names": (body("x = uuid4()", "from uuid import uuid4\n"), "harness_nondeterministic", 5, "ctx.random()"),
    "environment": (body("x = os.environ['HOME']", "import os\n"), "harness_nondeterministic", 5, "ctx.args"),
    "environment by name": (body("x = environ['HOME']", "from os import environ\n"), "harness_nondeterministic", 1, "ctx.args"),
    "system": (body("x = os.path.exists('f')", "import os\n"), "harness_nondeterministic", 5, "child"),
    "file": (body("x = open('f').read()"), "harness_nondeterministic", 4, "child"),
    "path": (body("x = Path.home()", "from pathlib import Path\n"), "harness_nondeterministic", 5, "child"),
    "thread": (body("await asyncio.to_thread(print)", "import asyncio\n"), "harness_nondeterministic", 5, "ctx.command"),
    "eval": (body("x = eval('1')"), "harness_nondeterministic", 4, "child"),
    "not awaited": (body("ctx.sleep(3)"), "harness_not_awaited", 4, "await"),
    "key": (body("await ctx.command('x', key='Not a key')"), "child_invalid", 4, "'not-a-key'"),
    "join": (body("g = ctx.group('g', join='most')"), "child_invalid", 4, "all_success"),
    "option": (body("await ctx.command('x', timout_s=3)"), "child_invalid", 4, "timeout_s"),
    "option of a group": (body("ctx.group('g').agent('x', adapter='pi', modell='m')"), "child_invalid", 4, "model"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flakes.harness.checking.typing.CHECKERS", ())


def checked(path: Path, text: str) -> tuple[int, Any]:
    path.write_text(text)
    out = io.StringIO()
    code = run_cli(["harness", "check", str(path), "--json"], out, io.StringIO())
    return code, json.loads(out.getvalue())


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_module_is_told_with_its_line_and_a_fix(tmp_path: Path, name: str) -> None:
    text, code, line, fix = WRONG[name]
    exit_code, found = checked(tmp_path / "plan.py", text)
    assert exit_code == 1, found
    assert [(each["code"], each["line"]) for each in found["diagnostics"]] == [(code, line)], found
    (told,) = found["diagnostics"]
    assert fix in told["fix"]
    assert told["message"]
    assert told["code"] in CODES


CASES = "from flakes.harness.cases import Case, Failed\nCASES = [Case('one', {children})]\n"


@pytest.mark.parametrize(
    ("line", "children", "code"),
    [
        ("await ctx.command('x')", "lambda _: Failed('no')", "child_unsuccessful"),
        ("x = (await ctx.command('x')).data", "lambda _: None", "output_missing"),
        ("x = 1 // 0", "lambda _: None", "harness_crashed"),
        ("await ctx.signal('go')", "lambda _: None", "harness_stuck"),
    ],
)
def test_a_case_that_fails_says_where(tmp_path: Path, line: str, children: str, code: str) -> None:
    children = children.replace("None", "__import__('flakes.harness.cases').harness.cases.Done()")
    (tmp_path / "plan_cases.py").write_text(CASES.format(children=children))
    exit_code, found = checked(tmp_path / "plan.py", body(line))
    assert exit_code == 1
    (told,) = found["diagnostics"]
    assert (told["code"], told["line"], told["case"]) == (code, 4, "one")
    assert told["fix"]
