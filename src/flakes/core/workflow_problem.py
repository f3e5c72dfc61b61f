"""What can be wrong with a workflow file, as values.

A problem knows its line (from 1, in the file as an editor counts it), a stable code, a sentence and
what to do about it. Nothing here knows the syntax. Problems are collected, not thrown one by one:
a person repairs a file once, not once an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_QUOTED_LENGTH_MAX: Final = 80


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One fault of the file. Ordered by line, then code."""

    line: int
    code: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message} ({self.fix})"


class WorkflowFileError(Exception):
    """The file cannot be used; `problems` holds every fault of it, sorted by line, never empty."""

    code: Final = "invalid_workflow_file"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems))
        assert self.problems
        count = len(self.problems)
        self.message = f"the workflow file has {count} problem{'s' if count > 1 else ''}"
        self.fix = self.problems[0].fix
        super().__init__("\n".join([self.message, *(f"  {problem}" for problem in self.problems)]))


class BadValue(Exception):  # noqa: N818 - a value is bad; it becomes a Problem where its line is known
    """A value that its place does not allow. `code` names the problem it will become."""

    def __init__(self, message: str, fix: str, code: str = "bad_value") -> None:
        self.message = message
        self.fix = fix
        self.code = code
        super().__init__(message)


class Findings:
    """Problems as found; the same one again (by each task of a matrix) counts once."""

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}

    def add(self, line: int, code: str, message: str, fix: str) -> None:
        self._found.setdefault(Problem(line, code, message, fix))

    def raise_if_any(self) -> None:
        """Raises `WorkflowFileError` when anything was found."""
        if self._found:
            raise WorkflowFileError(self._found)


def quoted(text: str) -> str:
    """A piece of the file for use in a message: short, printable, in backquotes."""
    short = text if len(text) <= _QUOTED_LENGTH_MAX else text[: _QUOTED_LENGTH_MAX - 1] + "…"
    return "`" + "".join(c if c.isprintable() else "�" for c in short) + "`"
