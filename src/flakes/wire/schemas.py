"""JSON Schema (2020-12) of declared outputs: whether a schema can be used, and what is wrong with a value.

The library is loaded when it is first needed: 11 MiB and 40 ms that most processes never pay. Nothing is
ever fetched: a reference leads into the schema itself, or to the metaschema, or is refused. Patterns are
matched with a bound on backtracking.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from flakes.core.limits import OUTPUT_SCHEMA_SIZE_BYTES_MAX
from flakes.wire.codec import Frozen, encode

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
BACKTRACK_MAX: Final = 1_000_000
TEXT_LENGTH_MAX: Final = 300
_PLAIN: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*\Z")


class Problem(Frozen, frozen=True, kw_only=True):
    """One thing wrong with a value (or with a schema, as a value of the metaschema)."""

    path: str
    """Where in the value: `$.items[3].name`."""
    rule: str
    """The keyword that is broken: `required`, `type`."""
    rule_path: str
    """Where the keyword is in the schema: `$.properties.items.items.type`."""
    message: str


def schema_problem(schema: dict[str, Any]) -> Problem | None:
    """Why a schema cannot be used, or None."""
    text = encode(schema)
    if len(text) > OUTPUT_SCHEMA_SIZE_BYTES_MAX:
        message = f"the schema is {len(text)} bytes, the limit is {OUTPUT_SCHEMA_SIZE_BYTES_MAX}"
        return Problem(path="$", rule="size", rule_path="$", message=message)
    return _schema_problem(text)


def problems(schema: dict[str, Any], value: Any, limit: int) -> list[Problem]:
    """What is wrong with a value, at most `limit` things; the schema is one without a problem."""
    found: list[Problem] = []
    for error in _validator(schema).iter_errors(value):
        if len(found) == limit:
            break
        found.append(_problem(error))
    return found


@functools.lru_cache(maxsize=256)
def _schema_problem(text: bytes) -> Problem | None:
    import jsonschema_rs
    import msgspec

    schema: dict[str, Any] = msgspec.json.decode(text)
    dialect = schema.get("$schema", DIALECT)
    if not isinstance(dialect, str) or dialect.rstrip("#") != DIALECT:
        message = f"is not {DIALECT}, the only dialect that is taken"
        return Problem(path="$['$schema']", rule="$schema", rule_path="$", message=message)
    try:
        _validator(schema)
    except jsonschema_rs.ValidationError as error:
        if error.instance_path:
            return _problem(error)
        # A reference that leads nowhere; the library does not say where it stands.
        where = _reference(schema, error.message)
        message = "leads out of the schema or nowhere; nothing is fetched"
        if where is None:
            return Problem(path="$", rule="schema", rule_path="$", message=_short(error.message))
        return Problem(path=json_path(where), rule=str(where[-1]), rule_path="$", message=message)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        return Problem(path="$", rule="schema", rule_path="$", message=_short(str(error)))
    return None


def _validator(schema: dict[str, Any]) -> Draft202012Validator:
    import jsonschema_rs

    return jsonschema_rs.Draft202012Validator(
        schema, offline=True, validate_formats=True,
        pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACK_MAX),
    )  # fmt: skip


def _problem(error: Any) -> Problem:
    rules = [str(part) for part in error.schema_path]
    return Problem(
        path=json_path(error.instance_path),
        rule=rules[-1] if rules else "false",
        rule_path=json_path(error.schema_path),
        message=_short(error.message),
    )


def _reference(schema: Any, message: str) -> list[str | int] | None:
    """Where the reference is that an error speaks of."""
    open_: list[tuple[list[str | int], Any]] = [([], schema)]
    while open_:
        path, node = open_.pop()
        if isinstance(node, dict):
            fields = cast("dict[str, Any]", node)
            for name in ("$ref", "$dynamicRef"):
                target = fields.get(name)
                if isinstance(target, str) and _is_meant(target, message):
                    return [*path, name]
            open_ += [([*path, name], each) for name, each in fields.items()]
        elif isinstance(node, list):
            items = cast("list[Any]", node)
            open_ += [([*path, index], each) for index, each in enumerate(items)]
    return None


def _is_meant(target: str, message: str) -> bool:
    """Whether an error speaks of this reference: the library names its resource or its fragment in quotes."""
    base, _, fragment = target.partition("#")
    if base:
        return f"{base}'" in message
    return bool(fragment) and f"'{fragment}'" in message


def json_path(parts: Sequence[str | int]) -> str:
    """A place in a JSON document: `$.items[3]['odd name']`."""
    text = "$"
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN.match(part) and not part.startswith("$"):
            text += f".{part}"
        else:
            text += "['" + part.replace("\\", "\\\\").replace("'", "\\'") + "']"
    return text if len(text) <= TEXT_LENGTH_MAX else text[: TEXT_LENGTH_MAX - 1] + "…"


def _short(message: str) -> str:
    line = message.split("\n", 1)[0]
    if len(line) <= TEXT_LENGTH_MAX:
        return line
    # A long value stands at the beginning, what is wrong with it at the end.
    return f"{line[:99]}…{line[100 - TEXT_LENGTH_MAX :]}"
