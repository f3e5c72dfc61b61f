"""The workflow file: from the text of a `plan.md` to a workflow, or to all that is wrong with it.

This module owns the order of things (frontmatter, outline, tasks, dependencies) and how the tasks
of a file come together: keys, matrices, limits of the whole. Reading is a function of the text
alone: files that a task names are not opened, and whether a project exists is not known.

Invariants: `parse` gives a workflow that the server can admit as far as a file can tell, or raises
`WorkflowFileError` with every problem of the file; it raises nothing else, whatever the text. Equal
texts give equal workflows, on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from flakes.core import limits
from flakes.core.keys import is_key, key_from
from flakes.core.workflow_dependency import Draft, resolve_dependencies
from flakes.core.workflow_directives import DIRECTIVES, DirectiveLines, suggested_directive
from flakes.core.workflow_frontmatter import Frontmatter, read_frontmatter
from flakes.core.workflow_placeholder import Axes, expand
from flakes.core.workflow_problem import BadValue, Findings, Problem, WorkflowFileError, quoted
from flakes.core.workflow_section import Section, outline, split_lines
from flakes.core.workflow_task import (
    OutputDeclaration,
    RetryPolicy,
    Workflow,
    WorkflowBudget,
    WorkflowTask,
    budget_definition,
    definition,
    to_definitions,
)
from flakes.core.workflow_task_reader import TaskReader
from flakes.core.workflow_value import is_storable

__all__ = [
    "OutputDeclaration",
    "Problem",
    "RetryPolicy",
    "Workflow",
    "WorkflowBudget",
    "WorkflowFileError",
    "WorkflowTask",
    "budget_definition",
    "definition",
    "parse",
    "to_definitions",
]

# What a definition weighs in a request besides its brief and its dependencies, roughly, in bytes.
_TASK_OVERHEAD_BYTES: Final = 200


def parse(
    text: str,
    *,
    load_yaml: Callable[[str], object] | None = None,
    default_adapter: str | None = None,
) -> Workflow:
    """The workflow that `text` describes. Raises `WorkflowFileError` and nothing else.

    `load_yaml` reads YAML frontmatter (a safe loader that makes plain values); without it only TOML
    is understood. `default_adapter` is for tasks when the file names no adapter for them.
    """
    findings = Findings()
    lines = split_lines(text)
    for number, line in enumerate(lines, 1):
        if not is_storable(line):
            findings.add(
                number,
                "bad_character",
                "the line holds a character that cannot be stored (NUL, or broken UTF-8)",
                "remove it, and save the file as UTF-8",
            )
    findings.raise_if_any()
    front = read_frontmatter(lines, load_yaml, findings)
    markdown = outline(lines, front.next_line, findings, DIRECTIVES, suggested_directive)
    if not markdown.sections:
        findings.add(
            front.next_line if front.next_line <= len(lines) else len(lines),
            "no_tasks",
            "the file has no task",
            "add a heading like `## fix-login: Fix the login page`, an empty line, and a brief",
        )
    reader = _Reader(front, default_adapter, findings)
    for section in markdown.sections:
        reader.read(section)
    tasks = resolve_dependencies(reader.drafts, reader.groups, reader.refused, findings)
    findings.raise_if_any()
    return Workflow(
        tasks=tasks,
        project=front.project,
        run_key=front.run_key,
        run_name=front.run_name,
        adapter=front.adapter,
        model=front.model,
        capabilities=front.capabilities,
        budget=front.budget,
        vars=front.vars,
        title=markdown.title,
        intro=markdown.intro,
        merging=front.merging,
    )


@dataclass(slots=True)
class _Reader:
    """Reads section after section. `groups` says which task keys a written key means."""

    front: Frontmatter
    default_adapter: str | None
    findings: Findings
    drafts: list[Draft] = field(default_factory=list)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # Keys of tasks that were refused: depending on them is no further fault.
    refused: set[str] = field(default_factory=set)
    _claimed: dict[str, int] = field(default_factory=dict)
    _size_bytes: int = 0
    _too_many: bool = False
    _too_large: bool = False

    def read(self, section: Section) -> None:
        lines = self._directive_lines(section)
        axes = self._axes(section, lines)
        if not is_key(section.key):
            self.refused |= {section.key, key_from(section.key[:200], fallback=section.key)}
        claimed = self._claim(section.key, section)
        keys: list[str] = []
        expansions: list[tuple[str, dict[str, str]]]
        try:
            expansions = list(expand(section.key, axes)) if axes else [(section.key, {})]
        except BadValue as bad:
            self.findings.add(
                lines["matrix"][0].line, bad.code, f"`matrix`: {bad.message}", bad.fix
            )
            expansions = [(section.key, dict.fromkeys(axes or {}, "x"))]
            self.refused.add(f"{section.key}-")
        for key, values in expansions:
            if not self._has_room(section):
                break
            task = self._task_reader(section, lines, key, values, axes is None).read()
            if claimed and (key == section.key or self._claim(key, section)):
                keys.append(key)
                depends_on = lines.get("depends_on")
                line = depends_on[0].line if depends_on else section.line
                self.drafts.append(Draft(task, section.key, line))
                self.groups.setdefault(key, (key,))
        if claimed:
            self.groups[section.key] = tuple(keys)

    def _directive_lines(self, section: Section) -> dict[str, list[DirectiveLines]]:
        found: dict[str, list[DirectiveLines]] = {}
        for written in section.directives:
            name = written.name
            if name not in DIRECTIVES:
                suggestion = suggested_directive(name)
                self.findings.add(
                    written.line,
                    "unknown_directive",
                    f"{quoted(name)} is not a directive",
                    f"did you mean `{suggestion}`?"
                    if suggestion
                    else "remove it, or put an empty line above it when it belongs to the brief",
                )
            elif name in found and not DIRECTIVES[name].repeatable:
                self.findings.add(
                    written.line,
                    "duplicate_directive",
                    f"`{name}` is already set on line {found[name][0].line}",
                    "keep one of the two",
                )
            else:
                found.setdefault(name, []).append(written)
        return found

    def _axes(self, section: Section, lines: Mapping[str, list[DirectiveLines]]) -> Axes | None:
        """The axes of the section's matrix: empty without one, None with one that is refused."""
        if "matrix" not in lines:
            return {}
        reader = self._task_reader(section, {"matrix": lines["matrix"]}, section.key, {}, False)
        axes = reader.one("matrix")
        if axes is None:
            self.refused.add(f"{section.key}-")
        return axes

    def _task_reader(
        self,
        section: Section,
        lines: Mapping[str, list[DirectiveLines]],
        key: str,
        matrix: Mapping[str, str],
        guessing: bool,
    ) -> TaskReader:
        return TaskReader(
            self.front, self.default_adapter, self.findings, section, lines, key, matrix, guessing
        )

    def _claim(self, key: str, section: Section) -> bool:
        if key not in self._claimed:
            self._claimed[key] = section.line
            return True
        if is_key(key):
            self.findings.add(
                section.line,
                "duplicate_task",
                f"the task key `{key}` is already taken on line {self._claimed[key]}",
                "give one of the two tasks another key",
            )
        return False

    def _has_room(self, section: Section) -> bool:
        """Counts one more task in, before it is made: a matrix can make much of little."""
        if not self._too_many and len(self.drafts) >= limits.ADMISSION_TASKS_MAX:
            self._too_many = True
            self.findings.add(
                section.line,
                "too_many_tasks",
                f"the file has more than {limits.ADMISSION_TASKS_MAX} tasks",
                "split it into several files, or let a harness spawn the tasks",
            )
        self._size_bytes += len(section.body.encode()) + _TASK_OVERHEAD_BYTES
        if not self._too_large and self._size_bytes > limits.REQUEST_SIZE_BYTES_MAX:
            self._too_large = True
            self.findings.add(
                section.line,
                "file_too_large",
                "the briefs of all tasks together have more than "
                f"{limits.REQUEST_SIZE_BYTES_MAX // limits.MIB} MiB",
                "shorten the briefs, or refer to files of the project",
            )
        if self._too_many or self._too_large:
            self.refused |= {section.key, f"{section.key}-"}
            return False
        return True
