"""Readers of single values in a workflow file: from the text after `name:` to a value.

Each takes the text (stripped, never empty) and gives the value or raises `BadValue` with a fix.
They know limits and spellings, not where in the file they are, nor what other directives say. The
same readers serve the frontmatter, so that a budget is written one way everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Final, TypeVar

from flakes.core import limits
from flakes.core.keys import is_key, key_from
from flakes.core.suggestion import did_you_mean
from flakes.core.workflow_problem import BadValue, quoted
from flakes.core.workflow_task import RetryPolicy, WorkflowBudget

T = TypeVar("T", bound=str)

WORD_LENGTH_MAX: Final = 200
PATH_LENGTH_MAX: Final = 1_000
# Above any real amount, and safely inside a 64-bit column even in millionths.
AMOUNT_MAX: Final = 10**15

_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+~=-]*\Z")
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)?\Z")
_COUNT: Final = re.compile(r"[0-9]{1,3}(?:_?[0-9]{1,3}){0,5}\Z")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,9}\Z")
_USD: Final = re.compile(r"\$?([0-9]{1,9}(?:\.[0-9]{1,6})?)\Z")
_NOT_STORABLE: Final = re.compile("[\\0\\ud800-\\udfff]")
_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SEPARATORS: Final = re.compile(r"[,\s]+")


def text(value: str) -> str:
    """Free text, as it is."""
    return value


def input_text(value: str) -> str:
    """Free text that becomes a part of a task's input."""
    if len(value.encode()) > limits.TASK_INPUT_SIZE_BYTES_MAX:
        raise BadValue(
            f"the value has more than {limits.TASK_INPUT_SIZE_BYTES_MAX // limits.KIB} KiB",
            "put it into a file of the project and name the file here",
        )
    return value


def path(value: str) -> str:
    """The path of a file, relative to the workflow file or absolute."""
    if len(value) > PATH_LENGTH_MAX or "\n" in value:
        raise BadValue(f"{quoted(value)} is not a path", "write the path of one file")
    return value


def key(value: str) -> str:
    """A human key: `[a-z0-9]+(-[a-z0-9]+)*`, at most 64 characters."""
    if not is_key(value):
        raise BadValue(
            f"{quoted(value)} is not a key: lower case letters, digits and single hyphens, "
            f"at most {limits.KEY_LENGTH_MAX}",
            f"write `{key_from(value, fallback='name')}`, for example",
        )
    return value


def word(value: str) -> str:
    """A name without spaces: a model, a capability, a grant."""
    if len(value) > WORD_LENGTH_MAX or not _WORD.match(value):
        raise BadValue(
            f"{quoted(value)} is not a name",
            "use letters, digits and `.` `_` `:` `/` `@` `+` `-`, without spaces",
        )
    return value


def words(value: str) -> tuple[str, ...]:
    """`a, b` or `[a, b]`, repetitions dropped; `[]` is none at all."""
    return tuple(dict.fromkeys(word(item) for item in items(value)))


def capabilities(value: str) -> tuple[str, ...]:
    """A list of at most 64 names."""
    found = words(value)
    if len(found) > limits.CAPABILITIES_MAX:
        raise BadValue(
            f"{len(found)} names are more than the {limits.CAPABILITIES_MAX} allowed",
            "name only what the task cannot do without",
        )
    return found


def names(value: str) -> tuple[str, ...]:
    """A list whose items are checked elsewhere, against the tasks that there are."""
    return tuple(dict.fromkeys(items(value)))


def items(value: str) -> list[str]:
    """The items of `a, b` or `[a, "b"]`. An empty item is an error."""
    bracketed = value.startswith("[")
    if bracketed != value.endswith("]"):
        raise BadValue("a bracket of the list is missing", "write `a, b` or `[a, b]`")
    inner = value[1:-1].strip() if bracketed else value
    if bracketed and not inner:
        return []
    found = [_unquoted(item.strip()) for item in inner.split(",")]
    if not all(found):
        raise BadValue("the list has an empty item", "remove the surplus comma")
    return found


def choice(*allowed: T) -> Callable[[str], T]:
    """A reader for one of a few words, spelled exactly."""

    def read(value: str) -> T:
        for each in allowed:
            if value == each:
                return each
        listed = ", ".join(f"`{each}`" for each in allowed)
        suggestion = did_you_mean(value, allowed)
        raise BadValue(
            f"{quoted(value)} is not one of {listed}", suggestion or f"write one of {listed}"
        )

    return read


def boolean(value: str) -> bool:
    """`true` or `false`."""
    return choice("true", "false")(value) == "true"


def integer(minimum: int, maximum: int) -> Callable[[str], int]:
    """A reader for a whole number between two bounds, both included."""

    def read(value: str) -> int:
        if not _INTEGER.match(value) or not minimum <= int(value) <= maximum:
            raise BadValue(
                f"{quoted(value)} is not a whole number from {minimum} to {maximum}",
                f"write a number from {minimum} to {maximum}",
            )
        return int(value)

    return read


def duration_ms(value: str) -> Decimal:
    """Milliseconds of `90` (seconds), `500ms`, `90s`, `5m`, `1.5h` or `2d`, at most 30 days."""
    if (match := _DURATION.match(value)) is None:
        raise BadValue(
            f"{quoted(value)} is not a duration", "write `90s`, `5m`, `2h` or `500ms`, for example"
        )
    found_ms = Decimal(match[1]) * _UNIT_MS[match[2] or "s"]
    if found_ms > limits.TIMEOUT_S_MAX * 1_000:
        raise BadValue(
            f"{quoted(value)} is longer than {limits.TIMEOUT_S_MAX // 86_400} days",
            "write a shorter duration",
        )
    return found_ms


def duration_s(value: str) -> float:
    """Seconds; an int when it is a whole number of them."""
    found_s = duration_ms(value) / 1_000
    return int(found_s) if found_s == found_s.to_integral_value() else float(found_s)


def timeout_s(value: str) -> float:
    """Seconds, more than none."""
    if (found_s := duration_s(value)) <= 0:
        raise BadValue("a timeout of nothing would end every attempt", "leave the directive out")
    return found_s


def retry(value: str) -> RetryPolicy:
    """`3` or `3 backoff=2s max=1m`: attempts in all, first delay, longest delay."""
    first, *rest = _parts(value)
    attempts = integer(1, limits.ATTEMPTS_MAX)(first)
    settings = {
        name: duration_s(each)
        for name, each in _settings(rest, ("backoff", "max"), "3 backoff=2s max=1m").items()
    }
    policy = RetryPolicy(attempts, settings.get("backoff"), settings.get("max"))
    if (
        policy.backoff_s is not None
        and policy.max_backoff_s is not None
        and policy.max_backoff_s < policy.backoff_s
    ):
        raise BadValue("`max` is shorter than `backoff`", "make `max` at least as long")
    return policy


def budget(value: str) -> WorkflowBudget:
    """`children=4, tokens=200_000, cost_usd=1.50, wall=30m`, any of them, in any order."""
    return budget_from(
        _settings(
            _parts(value),
            (*_BUDGET_FIELDS, *_API_NAMES),
            "tokens=200000, cost_usd=1.50, wall=30m",
        )
    )


def budget_from(settings: dict[str, str]) -> WorkflowBudget:
    """A budget from the texts of its parts. Unknown parts are refused."""
    found: dict[str, int] = {}
    for written, value in settings.items():
        name = _API_NAMES.get(written, written)
        if name not in _BUDGET_FIELDS:
            raise BadValue(f"a budget has no {quoted(name)}", one_of(name, _BUDGET_FIELDS))
        field, read = _BUDGET_FIELDS[name]
        if field in found:
            raise BadValue(f"{quoted(name)} bounds what is bounded already", "keep one of the two")
        try:
            found[field] = read(value)
        except BadValue as bad:
            raise BadValue(f"{name}: {bad.message}", bad.fix) from None
    if not found:
        raise BadValue("the budget bounds nothing", "write `tokens=200000`, for example")
    return WorkflowBudget(**found)


def _parts(value: str) -> list[str]:
    # `max = 1m` is one part as much as `max=1m`.
    tight = "=".join(part.strip() for part in value.split("="))
    return [part for part in _SEPARATORS.split(tight) if part] or [""]


def _settings(parts: list[str], allowed: Iterable[str], example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise BadValue(f"{quoted(part)} is not `name=value`", f"write `{example}`, for example")
        if name not in allowed:
            raise BadValue(f"{quoted(name)} is not known here", one_of(name, allowed))
        if name in found:
            raise BadValue(f"{quoted(name)} is there twice", "keep one of the two")
        found[name] = value
    return found


def one_of(name: str, allowed: Iterable[str]) -> str:
    """The fix for a name that is not one of a few."""
    listed = tuple(allowed)
    return did_you_mean(name, listed) or "use one of " + ", ".join(f"`{each}`" for each in listed)


def _count(value: str) -> int:
    if not _COUNT.match(value) or (found := int(value)) > AMOUNT_MAX:
        raise BadValue(f"{quoted(value)} is not a whole number", "write `200000`, for example")
    return found


def _micro_usd(value: str) -> int:
    if (match := _USD.match(value)) is None:
        raise BadValue(f"{quoted(value)} is not an amount in USD", "write `1.50`, for example")
    return int(Decimal(match[1]) * 1_000_000)


def _wall_ms(value: str) -> int:
    return int(duration_ms(value))


_BUDGET_FIELDS: Final[dict[str, tuple[str, Callable[[str], int]]]] = {
    "children": ("children", _count),
    "tokens": ("tokens", _count),
    "cost_usd": ("cost_micro_usd", _micro_usd),
    "cost_micro_usd": ("cost_micro_usd", _count),
    "wall": ("wall_ms", _wall_ms),
    "wall_ms": ("wall_ms", _count),
}
# The API's spelling is taken too: a budget is often copied from a request or an answer.
_API_NAMES: Final = {"costUsd": "cost_usd", "costMicroUsd": "cost_micro_usd", "wallMs": "wall_ms"}


def _unquoted(item: str) -> str:
    if len(item) >= 2 and item[0] == item[-1] and item[0] in "\"'":
        return item[1:-1]
    return item


def is_storable(value: str) -> bool:
    """Whether the database can keep the text: no NUL, no half of a surrogate pair."""
    return _NOT_STORABLE.search(value) is None
