"""The directives of a task: their names, how each value is read, and how lines make one.

A table, so that a directive is added in one place: `DIRECTIVES` here, a field of `WorkflowTask`, a
row of docs/reference/workflow-file.md. Rules between two directives (a command needs `run`) are not
here; `workflow_file` has them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flakes.core import limits
from flakes.core import workflow_value as value
from flakes.core.graph import DependencyFailurePolicy
from flakes.core.suggestion import closest
from flakes.core.workflow_json import json_value
from flakes.core.workflow_output import outputs
from flakes.core.workflow_placeholder import parse_matrix
from flakes.core.workflow_problem import BadValue

EFFORTS: Final = ("off", "none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra")

# What people write who come from other tools. Only ever a suggestion.
_OTHER_WORDS: Final = {
    "needs": "depends_on", "after": "depends_on", "requires": "depends_on", "deps": "depends_on",
    "command": "run", "cmd": "run", "shell": "run", "script": "run",
    "check": "verify", "test": "verify", "criteria": "acceptance", "agent": "adapter",
    "tools": "grants", "attempts": "retry", "deadline": "timeout", "reasoning": "effort",
    "strategy": "matrix", "output": "outputs", "harness": "harness_file", "input": "args",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Directive:
    """How one directive is read.

    `unknown_placeholders_allowed` is for prose, where braces may mean something else;
    `placeholders_inside` leaves the text alone because its parts are replaced after reading.
    """

    read: Callable[[str], object]
    repeatable: bool = False
    keeps_lines: bool = False
    unknown_placeholders_allowed: bool = False
    placeholders_inside: bool = False


@dataclass(frozen=True, slots=True)
class DirectiveLines:
    """A directive as written: the text after the colon and the indented lines that continue it."""

    name: str
    line: int
    first: str
    continuation: tuple[str, ...] = ()

    def text(self, *, keeps_lines: bool) -> str:
        """The whole value. Lines of a command stay lines, with their relative indentation."""
        if not keeps_lines:
            return " ".join([self.first, *(each.strip() for each in self.continuation)]).strip()
        rest = textwrap.dedent("\n".join(each.rstrip() for each in self.continuation))
        # `run: |` is how YAML starts a block, and never a command.
        first = "" if self.first == "|" and rest else self.first
        return "\n".join(part for part in (first, rest) if part).strip()


def _acceptance(text: str) -> str:
    if len(text) > limits.ACCEPTANCE_LENGTH_MAX:
        raise BadValue(
            f"the criterion has {len(text)} characters; {limits.ACCEPTANCE_LENGTH_MAX} are allowed",
            "keep the criterion short and move the detail into the brief",
            code="acceptance_too_long",
        )
    return text


DIRECTIVES: Final[dict[str, Directive]] = {
    "depends_on": Directive(value.names),
    "adapter": Directive(value.key),
    "model": Directive(value.word),
    "effort": Directive(value.choice(*EFFORTS)),
    "acceptance": Directive(_acceptance, repeatable=True, unknown_placeholders_allowed=True),
    "capabilities": Directive(value.capabilities),
    "grants": Directive(value.capabilities),
    "retry": Directive(value.retry),
    "timeout": Directive(value.timeout_s),
    "on_failure": Directive(value.choice(*DependencyFailurePolicy)),
    "optional": Directive(value.boolean),
    "priority": Directive(value.integer(-limits.PRIORITY_MAX, limits.PRIORITY_MAX)),
    "outputs": Directive(outputs),
    "harness_file": Directive(value.path),
    "args": Directive(json_value, unknown_placeholders_allowed=True, placeholders_inside=True),
    "args_file": Directive(value.path),
    "budget": Directive(value.budget),
    "run": Directive(value.input_text, keeps_lines=True),
    "verify": Directive(value.input_text, repeatable=True, keeps_lines=True),
    "matrix": Directive(parse_matrix),
    "permission": Directive(value.choice("auto", "ask", "readOnly")),
}


def suggested_directive(name: str) -> str | None:
    """The directive that was probably meant, or None."""
    return _OTHER_WORDS.get(name.lower()) or closest(name, DIRECTIVES)
