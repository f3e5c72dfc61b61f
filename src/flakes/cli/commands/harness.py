"""`flakes harness`: beginning, checking and reading about harnesses; all of it works offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flakes.cli.options import json_option
from flakes.cli.output import Output
from flakes.cli.render.parts import Span, bold, dim
from flakes.wire.errors import EXIT_INTERNAL, ApiError

if TYPE_CHECKING:
    from flakes.harness.checking.check import Checked
    from flakes.harness.checking.finding import Report

COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}


@click.group()
def harness() -> None:
    """Begin, check and read about harnesses: Python that orchestrates agents."""


@harness.command()
@click.option("--template", default="paper", help="paper, review-revise, fanout-fanin, autowrite, autoresearch or review-fix-loop.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), default=Path("harnesses"), help="Where to put it (default harnesses).")
@click.option("--file", metavar="NAME", help="The file's name (default: that of the template).")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@json_option
def init(template: str, directory: Path, file: str | None, force: bool, as_json: bool) -> None:
    """Write a template and its cases."""
    from flakes.harness.errors import HarnessError
    from flakes.harness.starting import create

    output = Output(as_json)
    try:
        written = create(template, directory, file, force=force)
    except HarnessError as error:
        raise refused(error) from error
    if as_json:
        output.data({"command": "harness init", "template": template, "files": [str(each) for each in written]})
        return
    for each in written:
        output.line(f"wrote {each}")
    output.talk(dim(f"check it: flakes harness check {written[0]}"))


@harness.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--defaults", type=click.Path(path_type=Path), help="A JSON file with what children get: agent, retry, capabilities.")
@click.option("--cases", type=click.Path(path_type=Path), help="The file of cases (default FILE_cases.py beside it).")
@json_option
def check(file: Path, defaults: Path | None, cases: Path | None, as_json: bool) -> int:
    """Check a harness: its text, its types, its cases, and a replay of each. Exit 0 when no stage failed."""
    from flakes.harness.checking import check as checking
    from flakes.harness.errors import HarnessError

    if cases is not None and not cases.is_file():
        raise ApiError("usage", f"there is no file {cases}", "check the path of --cases")
    try:
        checked = checking.check(file, cases, _json_of(defaults) if defaults else None)
    except HarnessError as error:
        raise refused(error) from error
    output = Output(as_json)
    if as_json:
        output.data(_body(checked))
    else:
        _show(output, checked)
    return 0 if checked.ok else EXIT_INTERNAL


@harness.command()
@click.argument("topic", required=False)
@click.option("--list", "list_", is_flag=True, help="Only the names of the topics.")
@json_option
def docs(topic: str | None, list_: bool, as_json: bool) -> None:
    """Print the guide to harnesses, or one topic of it."""
    from flakes.core.keys import key_from
    from flakes.core.suggestion import did_you_mean

    text = GUIDE.read_text(encoding="utf-8")
    parts = text.split("\n## ")
    topics = {key_from(part.split("\n")[0]): f"## {part.rstrip()}" for part in parts[1:]}
    output = Output(as_json)
    if topic is not None and topic not in topics:
        raise ApiError("usage", f"there is no topic {topic!r}", did_you_mean(topic, topics) or f"one of {', '.join(topics)}")
    if as_json:
        output.data({"topics": list(topics)} if list_ else {"text": topics[topic] if topic else text})
    else:
        output.line("\n".join(topics) if list_ else topics[topic] if topic else text.rstrip())


GUIDE = Path(__file__).resolve().parents[2] / "console" / "docs" / "guide" / "harnesses.md"


def refused(error: Any) -> ApiError:
    """A refusal of the harness package as one of the command line."""
    return ApiError("usage", error.message, error.fix, harnessCode=error.code)


def _json_of(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ApiError("usage", f"{path} cannot be used: {error}", "give a file with a JSON object") from error


def _body(checked: Checked) -> dict[str, Any]:
    return {
        "command": "harness check", "ok": checked.ok, "file": checked.file,
        "stages": [
            {"stage": each.stage, "status": each.status} | ({"reason": each.skipped} if each.skipped else {})
            for each in checked.stages
        ],
        "diagnostics": [each.body() for each in checked.findings],
        "cases": [
            {"name": each.name, "status": each.status, "replay": each.replay, "attempts": each.attempts, "children": each.children}
            for each in checked.cases
        ],
    }  # fmt: skip


def _show(output: Output, checked: Checked) -> None:
    for each in checked.findings:
        where = f"{checked.file}:{each.line}" if each.line else checked.file
        word = "warning: " if each.severity == "warning" else ""
        case = f"case {each.case!r}: " if each.case else ""
        output.problem(where, f"{word}{case}{each.message} [{each.code}]", each.fix)
    for each in checked.stages:
        output.line(bold(f"{each.stage:8}"), Span(each.status, COLOURS[each.status]), _reason(each, checked))


def _reason(stage: Report, checked: Checked) -> str:
    if stage.skipped:
        return f"  {stage.skipped}"
    if stage.stage == "cases" and checked.cases:
        children = sum(each.children for each in checked.cases)
        attempts = sum(each.attempts for each in checked.cases)
        return f"  {len(checked.cases)} cases, {children} children, {attempts} attempts"
    return ""
