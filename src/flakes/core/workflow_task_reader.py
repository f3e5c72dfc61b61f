"""One task of a workflow file, from its directives to a `WorkflowTask`.

Here are the rules that need several directives at once: which adapter a task has, what a command or
a harness needs, which defaults of the frontmatter reach it. Other tasks are not known here, so
dependencies stay as written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flakes.core import limits
from flakes.core.graph import DependencyFailurePolicy
from flakes.core.suggestion import did_you_mean
from flakes.core.workflow_directives import DIRECTIVES, DirectiveLines
from flakes.core.workflow_frontmatter import Frontmatter
from flakes.core.workflow_placeholder import substitute, substitute_in_json, unknown_names
from flakes.core.workflow_problem import BadValue, Findings, quoted
from flakes.core.workflow_section import Section
from flakes.core.workflow_task import WorkflowTask

COMMAND: Final = "command"
HARNESS: Final = "harness"


@dataclass(slots=True)
class TaskReader:
    """Makes one task of a section, with the values of its matrix.

    `guessing` is set when the matrix could not be read: its axes are unknown then, so unknown
    placeholders are no fault.
    """

    front: Frontmatter
    default_adapter: str | None
    findings: Findings
    section: Section
    lines: Mapping[str, list[DirectiveLines]]
    key: str
    matrix: Mapping[str, str]
    guessing: bool
    _values: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._values = {**self.front.vars, **self.matrix}

    def read(self) -> WorkflowTask:
        """The task; what is wrong with it goes to the findings, and the task is not to be used."""
        section, front = self.section, self.front
        self._check_placeholders(section.title, "title", section.line)
        title = " ".join(substitute(section.title, self._values).split())
        if section.title and not title:
            self._fault(
                section.line,
                "bad_heading",
                "nothing is left of the title with its placeholders filled in",
                "add words of its own to the title",
            )
        if len(title) > limits.TITLE_LENGTH_MAX >= len(section.title):
            self._fault(
                section.line,
                "bad_heading",
                f"the title has {len(title)} characters with its placeholders filled in; "
                f"{limits.TITLE_LENGTH_MAX} are allowed",
                "shorten the title",
            )
        body = substitute(section.body, self._values)
        if (size_bytes := len(body.encode())) > limits.TASK_BODY_SIZE_BYTES_MAX:
            self._fault(
                section.body_line,
                "body_too_long",
                f"the brief of `{section.key}` has {size_bytes} bytes; "
                f"{limits.TASK_BODY_SIZE_BYTES_MAX} are allowed",
                "shorten it, or refer to files of the project",
            )
        own_adapter = self.one("adapter")
        adapter = own_adapter
        if adapter is None and "adapter" not in self.lines:
            adapter = COMMAND if "run" in self.lines else front.adapter or self.default_adapter
        self._check_adapter(adapter)
        agent = adapter not in (COMMAND, HARNESS) and front.adapter in (None, adapter)
        capabilities = self.one("capabilities")
        return WorkflowTask(
            key=self.key,
            title=title,
            body=body,
            line=section.line,
            adapter=adapter or "",
            depends_on=self.one("depends_on") or (),
            # A model belongs to its adapter: the default is not for tasks of another one.
            model=self.one("model") or (front.model if agent else None),
            effort=self.one("effort"),
            acceptance=self.all("acceptance", limits.ACCEPTANCE_COUNT_MAX, "too_many_acceptance"),
            capabilities=front.capabilities if capabilities is None else capabilities,
            grants=self.one("grants") or (),
            retry=self.one("retry"),
            timeout_s=self.one("timeout"),
            on_failure=self.one("on_failure") or DependencyFailurePolicy.FAIL,
            optional=self.one("optional") or False,
            priority=self.one("priority") or 0,
            outputs=self.one("outputs") or {},
            harness_file=self.one("harness_file"),
            args=substitute_in_json(self.one("args"), self._values),
            args_file=self.one("args_file"),
            budget=self.one("budget"),
            run=self.one("run"),
            verify=self.all("verify", limits.VERIFY_COMMANDS_MAX, "bad_value"),
            matrix=dict(self.matrix),
            matrix_key=section.key if self.matrix else None,
            permission=self.one("permission"),
        )

    def one(self, name: str) -> Any:
        """The value of a directive; None when it is not there or not good."""
        return self._value(name, self.lines[name][0]) if name in self.lines else None

    def all(self, name: str, count_max: int, code: str) -> tuple[str, ...]:
        """The values of a repeatable directive, in order."""
        written = self.lines.get(name, [])
        if len(written) > count_max:
            self._fault(
                written[count_max].line,
                code,
                f"`{name}`: {len(written)} are more than the {count_max} allowed",
                "join some of them, or split the task",
            )
        found = (self._value(name, each) for each in written)
        return tuple(each for each in found if each is not None)

    def _value(self, name: str, written: DirectiveLines) -> Any:
        directive = DIRECTIVES[name]
        text = written.text(keeps_lines=directive.keeps_lines)
        if not directive.unknown_placeholders_allowed and self._check_placeholders(
            text, name, written.line
        ):
            return None
        if not directive.placeholders_inside:
            text = substitute(text, self._values).strip()
        if not text:
            self._fault(
                written.line,
                "bad_value",
                f"`{name}`: the value is missing",
                "write it after the colon, or remove the line",
            )
            return None
        try:
            return directive.read(text)
        except BadValue as bad:
            if not (self.guessing and "{{" in text):
                self._fault(written.line, bad.code, f"`{name}`: {bad.message}", bad.fix)
            return None

    def _check_placeholders(self, text: str, place: str, line: int) -> bool:
        """Whether `text` holds placeholders that mean nothing; reports them."""
        unknown = unknown_names(text, self._values)
        if self.guessing or self.front.unreadable or "vars" in self.front.bad:
            return bool(unknown)
        for name in unknown:
            self._fault(
                line,
                "unknown_placeholder",
                f"`{place}`: nothing is called {quoted(name)}",
                did_you_mean(name, self._values)
                or f"add {quoted(name)} to `vars` or to `matrix`, or write `\\{{{{` for braces",
            )
        return bool(unknown)

    def _check_adapter(self, adapter: str | None) -> None:
        front, section, lines = self.front, self.section, self.lines
        if adapter is None:
            if "adapter" in lines or "adapter" in front.bad or front.unreadable:
                return
            if not section.title:
                return  # the heading is no task's, and has been reported
            first_word = section.body.partition(":")[0]
            hidden = first_word in DIRECTIVES and section.body_line > section.line + 1
            self._fault(
                section.line,
                "adapter_missing",
                f"the task {quoted(section.key)} has no adapter",
                "remove the empty line below the heading, so that directives follow it directly"
                if hidden
                else "add `adapter: claude` (or pi, codex, ...) below the heading, or `adapter` "
                "to the frontmatter, or `run: COMMAND` for a command",
            )
            return
        if adapter == COMMAND and "run" not in lines:
            self._fault(
                self._line("adapter"),
                "run_missing",
                f"the task {quoted(section.key)} is a command and has no `run`",
                "add `run: COMMAND LINE`, or choose another adapter",
            )
        if adapter != COMMAND and "run" in lines:
            self._fault(
                self._line("run"),
                "run_without_command",
                f"`run` is for the adapter `command`, and this task has `{adapter}`",
                "remove `adapter`, or write `verify` for a command that checks an agent's work",
            )
        if adapter == HARNESS and "harness_file" not in lines:
            self._fault(
                self._line("adapter"),
                "harness_file_missing",
                f"the task {quoted(section.key)} is a harness and has no `harness_file`",
                "add `harness_file: PATH`, or choose another adapter",
            )
        for name in ("harness_file", "args", "args_file"):
            if name in lines and adapter != HARNESS:
                self._fault(
                    self._line(name),
                    f"{name}_without_harness",
                    f"`{name}` is for the adapter `harness`, and this task has `{adapter}`",
                    f"add `adapter: harness`, or remove `{name}`",
                )
        if "args" in lines and "args_file" in lines:
            self._fault(
                max(self._line("args"), self._line("args_file")),
                "args_conflict",
                "`args` and `args_file` are both there",
                "keep one of the two",
            )

    def _line(self, name: str) -> int:
        return self.lines[name][0].line if name in self.lines else self.section.line

    def _fault(self, line: int, code: str, message: str, fix: str) -> None:
        self.findings.add(line, code, message, fix)
