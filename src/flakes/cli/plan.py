"""What `flakes run` is about to submit: tasks as definitions, from a workflow file, a harness or a prompt.

Reads the files that a workflow names (harness modules, arguments) and puts their content in place,
because the server never sees the user's disk. Everything here works offline.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flakes.core import keys, limits
from flakes.core.workflow_file import (
    Problem,
    WorkflowFileError,
    budget_definition,
    parse,
    to_definitions,
)
from flakes.core.workflow_task import HARNESS_OUTPUT, Workflow, WorkflowTask
from flakes.harness.definition import Defaults
from flakes.harness.errors import HarnessError
from flakes.harness.packing import grants_of, packed
from flakes.wire.errors import ApiError

TITLE_LENGTH = 72
SUFFIX_LENGTH = 7


class PlanError(Exception):
    """The workflow file cannot be used; `problems` holds every fault with its line."""

    def __init__(self, name: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(f"{name} has {len(problems)} problem{'s' if len(problems) > 1 else ''}")
        self.name = name
        self.problems = problems


@dataclass(slots=True)
class Plan:
    """A run to be. None where nobody has said anything yet."""

    tasks: list[dict[str, Any]]
    title: str
    stem: str
    """What a fresh run key is made from."""
    project: str | None = None
    run_key: str | None = None
    run_name: str | None = None
    budget: dict[str, object] | None = None
    merging: dict[str, object] | None = None
    submitted: bool = False

    def fresh_key(self, now: datetime) -> str:
        """A run key that this second has for itself: running a file again makes a new run."""
        suffix = _base36(int(now.timestamp() * 10))
        stem = keys.key_from(self.stem)[: limits.KEY_LENGTH_MAX - len(suffix) - 1].strip("-")
        return f"{stem or 'run'}-{suffix}"

    def levels(self) -> list[list[str]]:
        """Task keys by how many steps from the beginning they can start."""
        waiting = {task["taskKey"]: set(task.get("dependsOn", ())) for task in self.tasks}
        found: list[list[str]] = []
        while waiting:
            ready = [key for key, needs in waiting.items() if not needs & waiting.keys()]
            assert ready, "a checked plan has no cycle"
            found.append(ready)
            for key in ready:
                del waiting[key]
        return found


def looks_like_file(what: str) -> bool:
    """Whether an argument names a workflow file and is not a prompt."""
    if "\n" in what or len(what) > 4_096:
        return False
    return what.endswith((".md", ".markdown")) or ("/" in what and Path(what).is_file())


def from_prompt(prompt: str, adapter: str | None) -> Plan:
    """One task that does what the prompt says."""
    if not prompt.strip():
        raise ApiError("usage", "the prompt is empty", "say what to do, or name a workflow file")
    if adapter is None:
        raise ApiError(
            "usage",
            "which agent is to do this?",
            "name one with --adapter; `--adapter command` runs the text as a command line",
        )
    title = prompt.strip().split("\n")[0]
    title = title if len(title) <= TITLE_LENGTH else title[: TITLE_LENGTH - 1] + "…"
    task: dict[str, Any] = {"taskKey": "task", "title": title, "adapter": adapter}
    if adapter == "command":
        task["input"] = {"shell": prompt}
    else:
        task["bodyMarkdown"] = prompt
    stem = "-".join(keys.key_from(title).split("-")[:5])
    return Plan(tasks=[task], title=title, stem=stem)


def is_harness(what: str) -> bool:
    """Whether an argument names a harness: a Python file that defines one."""
    if not what.endswith(".py") or "\n" in what:
        return False
    try:
        return "define_harness" in Path(what).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def from_harness(
    path: Path, adapter: str | None, variables: dict[str, str], defaults: Path | None = None
) -> Plan:
    """One task that runs the harness; `adapter` is its children's, `defaults` a file of all that they get;
    variables are its arguments (JSON, or else text)."""
    try:
        work = packed(path)
    except HarnessError as error:
        raise ApiError("usage", error.message, error.fix, harnessCode=error.code) from error
    if variables:
        work["args"] = {name: _json_or_text(value) for name, value in variables.items()}
    given = {} if defaults is None else _defaults(defaults)
    if adapter not in (None, "harness"):
        given["agent"] = {**given.get("agent", {}), "adapter": adapter}
    if given:
        work["defaults"] = given
    task: dict[str, Any] = {
        "taskKey": "task", "title": path.stem, "adapter": "harness", "input": work,
        "toolGrants": grants_of(work), "declaredOutputs": dict(HARNESS_OUTPUT),
    }  # fmt: skip
    return Plan(tasks=[task], title=path.stem, stem=path.stem)


def _defaults(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        Defaults.of(given)
    except (OSError, ValueError) as error:
        raise ApiError("usage", f"{path} cannot be used: {error}", "give a file with a JSON object") from error
    except HarnessError as error:
        raise ApiError("usage", f"{path}: {error.message}", error.fix, harnessCode=error.code) from error
    return given


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def from_workflow(
    text: str, name: str, directory: Path, adapter: str | None, variables: dict[str, str]
) -> Plan:
    """The plan in a workflow file called `name`; files it names are relative to `directory`."""
    try:
        workflow = parse_with(text, adapter, variables)
    except WorkflowFileError as error:
        raise PlanError(name, error.problems) from error
    tasks: list[dict[str, Any]] = to_definitions(workflow)
    problems = [
        problem
        for task, source in zip(tasks, workflow.tasks, strict=True)
        for problem in _embed(task, source, directory, workflow)
    ]
    if problems:
        raise PlanError(name, tuple(problems))
    stem = "run" if name == "-" else Path(name).stem
    return Plan(
        tasks=tasks,
        title=(workflow.run_name or workflow.title or stem)[: limits.NAME_LENGTH_MAX],
        stem=stem if name != "-" else (workflow.title or stem),
        project=workflow.project,
        run_key=workflow.run_key,
        run_name=workflow.run_name,
        budget=None if workflow.budget is None else budget_definition(workflow.budget),
        merging=None if workflow.merging is None else dict(workflow.merging),
    )


def parse_with(text: str, adapter: str | None, variables: dict[str, str]) -> Workflow:
    """Parse, with `variables` over those of the frontmatter.

    The parser takes its settings from the text alone, so the frontmatter is handed to it through the
    YAML reader it asks for, already merged. Lines keep their numbers.
    """
    if not variables:
        return parse(text, load_yaml=_load_yaml, default_adapter=adapter)
    lines = text.splitlines(keepends=True)
    start = next((i for i, line in enumerate(lines) if line.strip()), None)
    mark = "" if start is None else lines[start].rstrip()
    if start is None or mark not in ("+++", "---"):
        return _shifted(text, adapter, variables)
    end = next((i for i in range(start + 1, len(lines)) if lines[i].rstrip() == mark), None)
    # First as it is: what is wrong with the frontmatter itself is told in its own words.
    settings = _settings("".join(lines[start + 1 : end]), mark) if end is not None else None
    if settings is None or end is None:
        return parse(text, load_yaml=_load_yaml, default_adapter=adapter)
    lines[start] = lines[end] = "---\n"
    merged = _merged(settings, variables)
    return parse("".join(lines), load_yaml=lambda _: merged, default_adapter=adapter)


def _shifted(text: str, adapter: str | None, variables: dict[str, str]) -> Workflow:
    """A file without frontmatter gets one of two lines, and problems their own line numbers back."""
    merged = _merged({}, variables)
    try:
        return parse(f"---\n---\n{text}", load_yaml=lambda _: merged, default_adapter=adapter)
    except WorkflowFileError as error:
        raise WorkflowFileError(
            Problem(max(1, each.line - 2), each.code, each.message, each.fix)
            for each in error.problems
        ) from error


def _settings(block: str, mark: str) -> dict[Any, Any] | None:
    import tomllib

    import yaml

    try:
        values = tomllib.loads(block) if mark == "+++" else yaml.safe_load(block)
    except (tomllib.TOMLDecodeError, yaml.YAMLError):
        return None
    values = {} if values is None else values
    return values if isinstance(values, dict) else None


def _merged(settings: dict[Any, Any], variables: dict[str, str]) -> dict[Any, Any]:
    own = settings.get("vars")
    return settings | {"vars": (own if isinstance(own, dict) else {}) | variables}


def _load_yaml(text: str) -> object:
    import yaml

    return yaml.safe_load(text)


def _embed(task: dict[str, Any], source: WorkflowTask, directory: Path, workflow: Workflow) -> list[Problem]:
    """Put the content of named files into a task's input; problems stand at the task's heading."""
    given = task.get("input")
    if not isinstance(given, dict):
        return []
    if "harnessFile" in given and workflow.adapter not in (None, "harness"):
        agent = {"adapter": workflow.adapter} | ({"model": workflow.model} if workflow.model else {})
        given["defaults"] = {"agent": agent}
    problems: list[Problem] = []
    for field in ("harnessFile", "argsFile"):
        if field not in given:
            continue
        path = directory / str(given[field])
        try:
            if field == "harnessFile":
                given |= packed(path)
                if not source.grants:
                    task["toolGrants"] = grants_of(given)
            else:
                given["args"] = json.loads(path.read_text(encoding="utf-8"))
                del given[field]
        except (OSError, ValueError, HarnessError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            problems.append(Problem(
                source.line, "unreadable_file", f"{path} cannot be used: {reason}",
                "check the path (relative to the workflow file) and the content",
            ))  # fmt: skip
    return problems


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits[-SUFFIX_LENGTH:]
