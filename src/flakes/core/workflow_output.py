"""The outputs that a task declares, as written in a workflow file."""

from __future__ import annotations

from typing import Final, cast

from flakes.core.limits import DECLARED_OUTPUTS_MAX
from flakes.core.workflow_json import json_value
from flakes.core.workflow_problem import BadValue, quoted
from flakes.core.workflow_task import OutputDeclaration, OutputKind
from flakes.core.workflow_value import items, key, one_of

_KINDS: Final[dict[str, OutputKind]] = {"text": "text", "json": "json", "workspace": "workspace"}
_FIELDS: Final = ("kind", "required", "schema", "paths")


def outputs(value: str) -> dict[str, OutputDeclaration]:
    """`report text, stats json, notes text optional`, or a JSON object of declarations."""
    found: dict[str, OutputDeclaration] = {}
    if value.startswith("{"):
        document = json_value(value)
        # What begins with a brace and is JSON is an object.
        for name, fields in cast("dict[str, object]", document).items():
            found[key(name)] = _output_from(name, fields)
    else:
        for item in items(value):
            name, *rest = item.split()
            if key(name) in found:
                raise BadValue(f"the output {quoted(name)} is there twice", "keep one of the two")
            found[name] = _output(name, rest)
    if len(found) > DECLARED_OUTPUTS_MAX:
        raise BadValue(
            f"{len(found)} outputs are more than the {DECLARED_OUTPUTS_MAX} allowed",
            "put several results into one json or workspace output",
            code="too_many_outputs",
        )
    return found


def _output(name: str, rest: list[str]) -> OutputDeclaration:
    required = not (rest and rest[-1] == "optional")
    kinds = rest if required else rest[:-1]
    if len(kinds) > 1:
        raise BadValue(
            f"the output {quoted(name)} has {len(kinds)} words after it",
            "write `key kind` or `key kind optional`, and commas between outputs",
        )
    return OutputDeclaration(_kind(kinds[0] if kinds else "text"), required)


def _output_from(name: str, declared: object) -> OutputDeclaration:
    if not isinstance(declared, dict):
        raise BadValue(f"the output {quoted(name)} is not an object", 'write `{"kind": "text"}`')
    fields = cast("dict[str, object]", declared)
    for field in fields:
        if field not in _FIELDS:
            raise BadValue(
                f"the output {quoted(name)} has no field {quoted(field)}", one_of(field, _FIELDS)
            )
    kind, required = fields.get("kind", "text"), fields.get("required", True)
    schema, paths = fields.get("schema"), fields.get("paths", [])
    if not isinstance(kind, str):
        raise BadValue(f"the kind of {quoted(name)} is not text", 'write `"kind": "text"`')
    if not isinstance(required, bool):
        raise BadValue(f"`required` of {quoted(name)} is not true or false", "write true or false")
    if schema is not None and (not isinstance(schema, dict) or kind != "json"):
        raise BadValue(
            f"the schema of {quoted(name)} has no use",
            "give an object, and only to an output of kind json",
        )
    if not isinstance(paths, list):
        raise BadValue(f"the paths of {quoted(name)} are not a list", 'write `["src"]`')
    texts = tuple(each for each in cast("list[object]", paths) if isinstance(each, str) and each)
    if len(texts) < len(cast("list[object]", paths)):
        raise BadValue(f"a path of {quoted(name)} is not text", 'write `["src"]`')
    return OutputDeclaration(_kind(kind), required, cast("dict[str, object] | None", schema), texts)


def _kind(word: str) -> OutputKind:
    if word not in _KINDS:
        raise BadValue(f"{quoted(word)} is no kind of output", one_of(word, _KINDS))
    return _KINDS[word]
