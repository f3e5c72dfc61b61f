"""`flakes harness check`: every stage over one file, and what came of it."""

from __future__ import annotations

import dataclasses
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flakes.harness.cases import Case
from flakes.harness.checking import rules, typing
from flakes.harness.checking.finding import Finding, Report
from flakes.harness.checking.fixtures import FixtureEngine
from flakes.harness.definition import Defaults
from flakes.harness.errors import HarnessError
from flakes.harness.loading import Source
from flakes.harness.packing import pack
from flakes.harness.running import Ended, Given, run
from flakes.harness.surroundings import Task

ATTEMPTS_MAX: Final = 2_000


@dataclass(slots=True)
class CaseReport:
    """How a case went: passed, failed; and the replay of it, which is `skipped` after a failure."""

    name: str
    status: str
    replay: str = "skipped"
    attempts: int = 0
    children: int = 0
    lines: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Checked:
    """All that a check found."""

    file: str
    stages: list[Report]
    cases: list[CaseReport]

    @property
    def ok(self) -> bool:
        """Whether no stage failed."""
        return all(each.status != "failed" for each in self.stages)

    @property
    def findings(self) -> list[Finding]:
        """Those of all stages."""
        return [each for stage in self.stages for each in stage.findings]


def check(path: Path, cases: Path | None = None, defaults: Any = None) -> Checked:
    """Check a module with its cases (by default those of the file beside it). Raises `HarnessError` for files
    that cannot be read, and for defaults that are none."""
    source = pack(path)
    given = Defaults.of(defaults) if defaults is not None else None
    beside = frozenset(each.name for each in path.parent.glob("*.py"))
    static = Report("static", rules.look(source.text, source.name, given, beside))
    checked = Checked(str(path), [static, typing.check(path)], [])
    if cases is None and (default := path.with_name(f"{path.stem}_cases.py")).exists():
        cases = default
    ran, replayed = Report("cases"), Report("replay")
    checked.stages += [ran, replayed]
    if static.status == "failed":
        ran.skipped = replayed.skipped = "the text has to be mended first"
    elif cases is None:
        ran.skipped = replayed.skipped = f"there is no {path.stem}_cases.py beside it"
    else:
        _run_cases(source, _cases_of(cases, ran), defaults, checked, ran, replayed)
    return checked


def _run_cases(
    source: Source, cases: list[Case], defaults: Any, checked: Checked, ran: Report, replayed: Report
) -> None:
    for case in cases:
        report = CaseReport(case.name, "passed")
        checked.cases.append(report)
        engine = FixtureEngine(case)
        task = Task("task_fixture", "harness", "run_fixture", "fixture")
        given = Given(source, task, case.args, defaults, stand_in="fixture")
        ended, report.attempts = attempts(given, engine)
        report.children, report.lines = engine.count, engine.lines
        wrong = list(_wrong(case, ended, engine))
        ran.findings += wrong
        if wrong:
            report.status = "failed"
            continue
        engine.sealed = True
        again = run(dataclasses.replace(given, retries=False), engine)
        report.replay = "passed" if _same(ended, again) else "failed"
        if report.replay == "failed":
            reason = again.error.message if again.error else f"it ended {again.status}"
            replayed.findings.append(Finding(
                "harness_diverged", reason, "take what differs between two runs through `ctx`", "replay",
                _line(again.at), case=case.name,
            ))  # fmt: skip


def attempts(given: Given, engine: FixtureEngine) -> tuple[Ended, int]:
    """Run it until it ends; every wait is another attempt. And how many there were."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        ended = run(given, engine)
        if ended.status != "yielded":
            return ended, attempt
    error = HarnessError("harness_limit", f"it did not end in {ATTEMPTS_MAX} attempts", "bound its loops")
    return Ended("failed", None, error), ATTEMPTS_MAX


def _wrong(case: Case, ended: Ended, engine: FixtureEngine) -> list[Finding]:
    def finding(message: str, code: str = "case_failed", fix: str = "mend the module, or the case", line: int | None = None) -> Finding:
        return Finding(code, message, fix, "cases", line, case=case.name)

    if case.error is not None:
        code = ended.error.code if ended.error else None
        if code != case.error:
            return [finding(f"it was to fail with {case.error}, and {f'failed with {code}' if code else f'ended {ended.status}'}")]
    elif ended.status != case.status:
        if ended.error is not None:
            return [finding(f"it ended {ended.status}: {ended.error.message}", ended.error.code, ended.error.fix or "mend the module, or the case", _line(ended.at))]
        return [finding(f"it ended {ended.status}, not {case.status}")]
    found: list[Finding] = []
    data = ended.outcome.data if ended.outcome else {}
    if case.data is not None and dict(case.data) != data:
        found.append(finding(f"its data is {data!r}, not {dict(case.data)!r}"))
    if case.count is not None and case.count != engine.count:
        found.append(finding(f"it began {engine.count} children, not {case.count}"))
    promoted = [each.removeprefix("fixture-") for each in engine.promotions]
    if case.promotions is not None and list(case.promotions) != promoted:
        found.append(finding(f"it promoted the files of {promoted}, not of {list(case.promotions)}"))
    return found


def _same(first: Ended, second: Ended) -> bool:
    def seen(ended: Ended) -> Any:
        error = (ended.error.code, ended.error.message) if ended.error else None
        return ended.status, ended.outcome, error, ended.journal_length

    return seen(first) == seen(second)


def _cases_of(path: Path, report: Report) -> list[Case]:
    def wrong(message: str, fix: str, line: int | None = None) -> list[Case]:
        report.findings.append(Finding("case_invalid", f"{path.name}: {message}", fix, "cases", line))
        return []

    try:
        names = runpy.run_path(str(path))
    except Exception as error:  # noqa: BLE001 - the user's own code
        return wrong(f"{type(error).__name__}: {error}", "mend the file of cases", getattr(error, "lineno", None))
    cases = names.get("CASES")
    if not isinstance(cases, list) or not cases or not all(isinstance(each, Case) for each in cases):
        return wrong("it has no list `CASES` of cases", "write `CASES = [Case(\"name\", ...)]`")
    seen: set[str] = set()
    for each in cases:
        if each.name in seen:
            return wrong(f"two cases are called {each.name!r}", "give them different names")
        seen.add(each.name)
    return cases


def _line(at: str) -> int | None:
    tail = at.rpartition(":")[2]
    return int(tail) if tail.isdigit() else None


