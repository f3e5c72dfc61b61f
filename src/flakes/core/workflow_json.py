"""JSON inside a workflow file, held to what every later reader of it can keep.

Python's own reader takes more than JSON (NaN, repeated names, numbers of any length) and fails on
deep nesting in its own way; here all of that is a `BadValue`.
"""

from __future__ import annotations

import json
import math
from typing import Final, NoReturn, cast

from flakes.core.workflow_problem import BadValue, quoted
from flakes.core.workflow_value import input_text, is_storable

JSON_DEPTH_MAX: Final = 32


def json_value(value: str) -> object:
    """Any JSON but null: no repeated names, no NaN, 64-bit integers, text that can be stored."""
    input_text(value)
    try:
        found: object = json.loads(
            value,
            object_pairs_hook=_unique,
            parse_constant=_not_a_number,
            parse_float=_finite,
            parse_int=_int64,
        )
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "not readable"
        raise BadValue(
            f"the value is not JSON: {reason}", 'write it like `{"name": "value"}`'
        ) from None
    if found is None:
        raise BadValue("null is no value", "leave the directive out")
    _check_json(found, JSON_DEPTH_MAX)
    return found


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadValue("the JSON names a field twice", "keep one of the two")
    return found


def _not_a_number(name: str) -> NoReturn:
    raise BadValue(f"{name} is not JSON", "write a number")


def _finite(digits: str) -> float:
    if not math.isfinite(found := float(digits)):
        raise BadValue(f"{quoted(digits)} is too large", "write a smaller number")
    return found


def _int64(digits: str) -> int:
    # The length is looked at first: turning very many digits into a number is slow, then refused.
    if len(digits) > 20 or not -(2**63) <= (found := int(digits)) < 2**63:
        raise BadValue(f"{quoted(digits)} is too large", "write a smaller number, or text")
    return found


def _check_json(value: object, depth_left: int) -> None:
    if depth_left == 0:
        raise _too_deep()
    match value:
        case str():
            if not is_storable(value):
                raise BadValue("the JSON holds a character that cannot be stored", "remove it")
        case list():
            for item in cast("list[object]", value):
                _check_json(item, depth_left - 1)
        case dict():
            for name, item in cast("dict[str, object]", value).items():
                _check_json(name, depth_left)
                _check_json(item, depth_left - 1)
        case _:
            pass


def _too_deep() -> BadValue:
    return BadValue(
        f"the JSON is nested deeper than {JSON_DEPTH_MAX} levels", "put it into an args_file"
    )
