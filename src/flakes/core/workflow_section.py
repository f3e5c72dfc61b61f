"""The outline of a workflow file: what is introduction, heading, directive and brief.

Markdown is looked at line by line, and only as far as needed: level-two headings at the beginning
of a line start tasks, fenced code blocks hide headings, directive lines follow a heading until the
first empty line. What directives are called is known only to tell their lines from prose; what
their values mean is not known at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Final

from flakes.core.keys import is_key, key_from
from flakes.core.limits import TITLE_LENGTH_MAX
from flakes.core.workflow_directives import DirectiveLines
from flakes.core.workflow_problem import Findings, quoted

_DIRECTIVE: Final = re.compile(r"([A-Za-z][A-Za-z0-9_ -]*):(.*)\Z")
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})(.*)\Z")
_SPACE_MISSING: Final = re.compile(r"##[a-z0-9][a-z0-9-]*: ")


@dataclass(frozen=True, slots=True)
class Section:
    """One task as written. `key` is as in the heading, valid or not; lines count from 1."""

    key: str
    title: str
    line: int
    directives: tuple[DirectiveLines, ...]
    body: str
    body_line: int


@dataclass(frozen=True, slots=True)
class Outline:
    """The Markdown part of a file. `intro` is what comes before the first task, less its title."""

    title: str | None
    intro: str
    sections: tuple[Section, ...]


def split_lines(text: str) -> list[str]:
    """Lines as an editor counts them, for any of the three line endings; never empty."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def outline(
    lines: list[str],
    first_line: int,
    findings: Findings,
    known: Container[str],
    suggested: Callable[[str], str | None],
) -> Outline:
    """The outline of `lines` from `first_line` (from 1) on.

    `known` holds the directive names and `suggested` gives the one that was meant. Adds
    `bad_heading`, `bad_key`, `missing_empty_line` and `unclosed_code_block` to the findings.
    """
    intro = _Markdown()
    open_sections: list[_OpenSection] = []
    prose, in_directives = intro, False
    for number, line in enumerate(lines[first_line - 1 :], first_line):
        if not prose.in_fence and (heading := _task_heading(line)) is not None:
            section = _OpenSection(*_read_heading(line, heading, number, findings), number)
            open_sections.append(section)
            prose.end()
            prose, in_directives = section.prose, True
        elif in_directives and line.strip():
            open_sections[-1].add_directive_line(line, number, findings, known, suggested)
        else:
            in_directives = False
            prose.add(line, number)
    prose.end()
    prose.report_hidden_tasks(findings)
    title, intro_text = intro.split_title()
    return Outline(title, intro_text, tuple(section.close() for section in open_sections))


class _Markdown:
    """Lines of prose as they come, with just enough Markdown to know fenced code blocks."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.first_line = 0
        self._fence: str | None = None
        self._fence_line = 0
        self._title_at: int | None = None
        self._hidden: list[str] = []

    @property
    def in_fence(self) -> bool:
        return self._fence is not None

    def add(self, line: str, number: int) -> None:
        if not self.lines and not line.strip():
            return
        self.first_line = self.first_line or number
        match = _FENCE.match(line)
        if self._fence is not None:
            if match and match[1].startswith(self._fence) and not match[2].strip():
                self._fence = None
                self._hidden.clear()
            elif (heading := _task_heading(line)) is not None and ":" in heading:
                self._hidden.append(heading)
        elif match and not (match[1][0] == "`" and "`" in match[2]):
            self._fence, self._fence_line = match[1], number
        elif self._title_at is None and line.startswith("# ") and line[2:].strip():
            self._title_at = len(self.lines)
        self.lines.append(line)

    def end(self) -> None:
        while self.lines and not self.lines[-1].strip():
            self.lines.pop()

    def report_hidden_tasks(self, findings: Findings) -> None:
        # A fence left open at the end is good Markdown, so it is an error only where it swallows
        # what looks like a task: otherwise the run would silently lack it.
        if self._fence is not None and self._hidden:
            findings.add(
                self._fence_line,
                "unclosed_code_block",
                f"this code block never ends and hides the task {quoted(self._hidden[0])}",
                f"close it with a line of {quoted(self._fence)}",
            )

    def text(self) -> str:
        return "\n".join(self.lines)

    def split_title(self) -> tuple[str | None, str]:
        if self._title_at is None:
            return None, self.text()
        title = _without_closing_marks(self.lines[self._title_at][2:])
        rest = [*self.lines[: self._title_at], *self.lines[self._title_at + 1 :]]
        return title or None, "\n".join(rest).strip("\n")


@dataclass(slots=True)
class _OpenSection:
    key: str
    title: str
    line: int
    prose: _Markdown = field(default_factory=_Markdown)
    _directives: list[tuple[str, int, str, list[str]]] = field(default_factory=list)
    _strayed: bool = False
    _continuable: bool = False

    def add_directive_line(
        self,
        line: str,
        number: int,
        findings: Findings,
        known: Container[str],
        suggested: Callable[[str], str | None],
    ) -> None:
        if line.startswith(("  ", "\t")) and self._continuable:
            self._directives[-1][3].append(line)
            return
        match = _DIRECTIVE.match(line)
        name = match[1].rstrip() if match else ""
        # "Please note: ..." is prose; "depends on: ..." is a directive gone wrong.
        is_directive = match is not None and (" " not in name or suggested(name) is not None)
        if match and is_directive and (name in known or not self._strayed):
            self._directives.append((name, number, match[2].strip(), []))
            self._continuable = True
            return
        self._continuable = False
        if not self._strayed:
            self._strayed = True
            findings.add(
                number,
                "missing_empty_line",
                f"{quoted(line.strip())} is not a directive (`name: value`): "
                "an empty line is missing before the brief",
                "put an empty line above it, or indent it by two or more spaces when it continues "
                "the directive before it",
            )

    def close(self) -> Section:
        return Section(
            self.key,
            self.title,
            self.line,
            tuple(
                DirectiveLines(name, line, first, tuple(continuation))
                for name, line, first, continuation in self._directives
            ),
            self.prose.text(),
            self.prose.first_line or self.line,
        )


def _task_heading(line: str) -> str | None:
    """What stands after `##`, or None when the line is no heading of a task."""
    if not line.startswith("##"):
        return None
    if len(line) == 2 or line[2] in " \t":
        return _without_closing_marks(line[2:])
    return line[2:].strip() if _SPACE_MISSING.match(line) else None


def _without_closing_marks(heading: str) -> str:
    """Markdown lets a heading end in `#` marks after a space; they are not part of it."""
    stripped = heading.strip()
    bare = stripped.rstrip("#")
    return bare.rstrip() if bare != stripped and (not bare or bare[-1].isspace()) else stripped


def _read_heading(line: str, heading: str, number: int, findings: Findings) -> tuple[str, str]:
    key, colon, title = (part.strip() for part in heading.partition(":"))
    example = f"`## {key_from(key[:200], fallback='key')}: {title[:60] or key[:60] or 'Title'}`"
    if len(line) > 2 and line[2] not in " \t":
        findings.add(number, "bad_heading", "a space is missing after `##`", f"write {example}")
    if not colon:
        findings.add(
            number,
            "bad_heading",
            f"the heading {quoted(heading)} names no task",
            f"write {example} for a task, or `###` for a heading inside a brief",
        )
    elif not is_key(key):
        findings.add(
            number,
            "bad_key",
            f"{quoted(key)} is not a task key: lower case letters, digits and single hyphens, "
            "at most 64",
            f"write {example}",
        )
    elif not title:
        findings.add(number, "bad_heading", f"the task {quoted(key)} has no title",
                     f"write `## {key}: What the task achieves`")  # fmt: skip
    elif len(title) > TITLE_LENGTH_MAX:
        findings.add(
            number,
            "bad_heading",
            f"the title has {len(title)} characters; {TITLE_LENGTH_MAX} are allowed",
            "keep the title short and move the detail into the brief",
        )
    return key, title
