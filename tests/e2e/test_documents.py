"""Every example of the documentation: workflows are checked, those marked `run` are run, Python compiles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from e2e.stage import Stage

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<text>.*?)^```$", re.M | re.S)


def blocks(language: str) -> list[tuple[str, str, str]]:
    """(name for the test, rest of the info string, text) of every fenced block in that language."""
    found = []
    for page in PAGES:
        for number, match in enumerate(BLOCK.finditer(page.read_text())):
            name, _, rest = match["info"].strip().partition(" ")
            if name == language:
                found.append((f"{page.relative_to(ROOT)}-{number}", rest, match["text"]))
    return found


WORKFLOWS = [b for b in blocks("markdown") if re.search(r"^## [a-z0-9-]+: ", b[2], re.M)]


@pytest.mark.parametrize(("name", "rest", "text"), WORKFLOWS, ids=[b[0] for b in WORKFLOWS])
def test_a_workflow_in_the_documentation_is_valid(
    stage: Stage, tmp_path: Path, name: str, rest: str, text: str
) -> None:
    plan = tmp_path / "plan.md"
    plan.write_text(text)
    for named in re.findall(r"^(?:harness_file|args_file): (\S+)$", text, re.M):
        (tmp_path / named).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / named).write_text("# named by the example\n")
    checked = stage.flakes("run", "--check", str(plan))
    assert checked.code == 0, f"{name}: {checked.err}"


@pytest.mark.parametrize(
    ("name", "rest", "text"),
    [b for b in WORKFLOWS if b[1] == "run"],
    ids=[b[0] for b in WORKFLOWS if b[1] == "run"],
)
def test_a_workflow_that_can_be_run_succeeds(
    session: Stage, tmp_path: Path, name: str, rest: str, text: str
) -> None:
    plan = tmp_path / "plan.md"
    plan.write_text(text)
    ran = session.flakes("run", str(plan), cwd=ROOT)
    assert ran.code == 0, f"{name}: {ran.out}{ran.err}"


def test_there_are_examples_to_run() -> None:
    assert any(rest == "run" for _, rest, _ in WORKFLOWS)


@pytest.mark.parametrize(
    ("name", "rest", "text"), blocks("python"), ids=[b[0] for b in blocks("python")]
)
def test_python_in_the_documentation_compiles_and_imports_what_there_is(
    name: str, rest: str, text: str
) -> None:
    compile(text, name, "exec")
    for line in text.splitlines():
        if line.startswith(("from flakes", "import flakes")):
            exec(line)


NEEDS_AN_AGENT = "release-notes"
"""It names no adapter; the tests of agents run it (tests/agents/test_session.py)."""
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.md") if path.stem != NEEDS_AN_AGENT)


@pytest.mark.parametrize("example", EXAMPLES, ids=[e.stem for e in EXAMPLES])
def test_every_example_runs(session: Stage, example: Path) -> None:
    ran = session.flakes("run", str(example), cwd=ROOT, timeout_s=120.0)
    assert ran.code == 0, ran.out + ran.err
