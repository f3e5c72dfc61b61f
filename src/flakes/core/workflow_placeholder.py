"""Placeholders (`{{ name }}`) and the matrix that gives one task many values for them.

A placeholder stands for a frontmatter variable or a matrix axis; an axis hides a variable of the
same name. `\\{{` is a literal `{{`. A value is put in as it is and not looked at again, so a value
cannot bring further placeholders. What is not known is left alone here: whether that is an error
depends on the place, and the caller asks `unknown_names` where it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Final, cast

from flakes.core.keys import is_key
from flakes.core.limits import ADMISSION_TASKS_MAX, KEY_LENGTH_MAX
from flakes.core.workflow_problem import BadValue, quoted

_TOKEN: Final = re.compile(r"\\\{\{|\{\{([ \t]*)([A-Za-z_][A-Za-z0-9_]*)([ \t]*)\}\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NOT_IN_KEYS: Final = re.compile(r"[^a-z0-9]+")
_MATRIX_FIX: Final = "write `matrix: name=first,second`, and `;` between several axes"

Axes = dict[str, tuple[str, ...]]


def is_placeholder_name(text: str) -> bool:
    """Whether `text` can stand between the braces."""
    return len(text) <= KEY_LENGTH_MAX and _NAME.match(text) is not None


def substitute(text: str, values: Mapping[str, str]) -> str:
    """`text` with known placeholders replaced and escapes removed; unknown ones stay."""
    if "{{" not in text:
        return text

    def replacement(match: re.Match[str]) -> str:
        name = match[2]
        return "{{" if name is None else values.get(name, match[0])

    return _TOKEN.sub(replacement, text)


def substitute_in_json(value: object, values: Mapping[str, str]) -> object:
    """The JSON value with placeholders replaced in its strings; names of fields stay."""
    match value:
        case str():
            return substitute(value, values)
        case list():
            found = cast("list[object]", value)
            return [substitute_in_json(item, values) for item in found]
        case dict():
            fields = cast("dict[str, object]", value)
            return {name: substitute_in_json(item, values) for name, item in fields.items()}
        case _:
            return value


def unknown_names(text: str, values: Mapping[str, str]) -> list[str]:
    """Names in `text` written exactly `{{ name }}` that have no value, in order, each once.

    Other spacings are left to the programs whose syntax they may be (`{{json}}`, `{{.Name}}`).
    """
    if "{{" not in text:
        return []
    found = (m[2] for m in _TOKEN.finditer(text) if m[2] and m[1] == " " == m[3])
    return list(dict.fromkeys(name for name in found if name not in values))


def parse_matrix(text: str) -> Axes:
    """Axes of `part=core,cli; os=linux,mac`, in the order written. Raises `BadValue`."""
    axes: Axes = {}
    for part in text.split(";"):
        name, equals, choices_text = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise BadValue(f"{quoted(part.strip())} is not `name=values`", _MATRIX_FIX)
        if not is_placeholder_name(name):
            raise BadValue(
                f"{quoted(name)} cannot name an axis",
                "use a letter, then letters, digits and underscores",
            )
        if name in axes:
            raise BadValue(f"the axis {quoted(name)} is there twice", "join the two lists")
        choices = tuple(choice.strip() for choice in choices_text.split(","))
        seen: dict[str, str] = {}
        for choice in choices:
            slug = key_part(choice)
            if not slug:
                raise BadValue(
                    f"the value {quoted(choice)} of {quoted(name)} leaves nothing for a task key",
                    "give every value at least one letter or digit of a to z, 0 to 9",
                )
            if slug in seen:
                raise BadValue(
                    f"{quoted(seen[slug])} and {quoted(choice)} give the same task key",
                    "make the values differ in letters or digits",
                )
            seen[slug] = choice
        axes[name] = choices
    if prod(len(choices) for choices in axes.values()) > ADMISSION_TASKS_MAX:
        raise BadValue(
            f"the matrix makes more than {ADMISSION_TASKS_MAX} tasks, the most that a run admits",
            "use fewer values",
            code="too_many_tasks",
        )
    return axes


def expand(key: str, axes: Axes) -> Iterator[tuple[str, dict[str, str]]]:
    """Each task of the matrix as its key and its values, the last axis changing fastest.

    Raises `BadValue` for a key that is too long.
    """
    for choices in product(*axes.values()):
        expanded = "-".join([key, *map(key_part, choices)])
        if is_key(key) and not is_key(expanded):
            raise BadValue(
                f"the task key {quoted(expanded)} has more than {KEY_LENGTH_MAX} characters",
                "shorten the task's key or the values",
            )
        yield expanded, dict(zip(axes, choices, strict=True))


def key_part(value: str) -> str:
    """A matrix value as a part of a task key: lower case, `-` for all that keys do not allow."""
    return _NOT_IN_KEYS.sub("-", value.lower()).strip("-")
