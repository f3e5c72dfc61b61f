"""JSON schemas of Python types, and values of those types from JSON.

Dataclasses, TypedDicts, enums, literals, unions and the usual containers; pydantic models by their own
methods (pydantic itself is not needed here); a mapping is taken as a schema as it stands.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from flakes.harness.errors import HarnessError

_PLAIN: Final[dict[Any, str]] = {
    str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", None: "null",
}  # fmt: skip


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema (2020-12) of a type; raises `HarnessError` (`schema_unsupported`)."""
    if isinstance(kind, Mapping):
        return dict(kind)
    definitions: dict[str, Any] = {}
    schema = _schema(kind, definitions, ())
    return schema | ({"$defs": definitions} if definitions else {})


def converted(value: Any, kind: Any, path: str = "") -> Any:
    """A JSON value as `kind`; raises `HarnessError` (`output_schema_mismatch`)."""
    if kind is Any or kind is object or isinstance(kind, Mapping):
        return value
    if hasattr(kind, "model_validate"):
        return _by_model(value, kind, path)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _one_of(value, get_args(kind), path)
    if origin is typing.Annotated or origin in (typing.Required, typing.NotRequired):
        return converted(value, get_args(kind)[0], path)
    if origin is Literal:
        if any(value == each and type(value) is type(each) for each in get_args(kind)):
            return value
        raise _mismatch(path, f"one of {', '.join(map(repr, get_args(kind)))}", value)
    if kind in _PLAIN:
        return _plain(value, kind, path)
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        return _object(value, kind, path)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            raise _mismatch(path, f"one of {', '.join(repr(each.value) for each in kind)}", value) from None
    return _container(value, kind, origin or kind, path)


def encoded(value: Any) -> Any:
    """A value as JSON: dataclasses, models and enums become what they would be read from."""
    if value is None or (isinstance(value, (str, bool, int, float)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return encoded(value.value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: encoded(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encoded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [encoded(each) for each in value]
    raise HarnessError(
        "harness_result_invalid", f"{type(value).__name__} is not a JSON value",
        "use strings, numbers, booleans, lists, mappings, dataclasses or models",
    )  # fmt: skip


def _schema(kind: Any, definitions: dict[str, Any], inside: tuple[Any, ...]) -> dict[str, Any]:
    if kind is Any or kind is object:
        return {}
    if hasattr(kind, "model_json_schema"):
        return kind.model_json_schema()
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is typing.Annotated or origin in (typing.Required, typing.NotRequired):
        return _schema(arguments[0], definitions, inside)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(each, definitions, inside) for each in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [each.value for each in kind]}
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        return _object_schema(kind, definitions, inside)
    if kind is list or origin in (list, Sequence):
        return {"type": "array"} | ({"items": _schema(arguments[0], definitions, inside)} if arguments else {})
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return {"type": "array", "items": _schema(arguments[0], definitions, inside)}
    if origin is tuple:
        items = [_schema(each, definitions, inside) for each in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if kind is dict or origin in (dict, Mapping):
        if arguments and arguments[0] is not str:
            raise _unsupported(kind, "JSON objects have strings as names")
        values = _schema(arguments[1], definitions, inside) if arguments else {}
        return {"type": "object"} | ({"additionalProperties": values} if values else {})
    raise _unsupported(kind, "there is no JSON for it")


def _object_schema(kind: Any, definitions: dict[str, Any], inside: tuple[Any, ...]) -> dict[str, Any]:
    name = kind.__name__
    if kind in inside or name in definitions:
        return {"$ref": f"#/$defs/{name}"}
    inner = {
        key: _schema(each, definitions, (*inside, kind)) for key, each in _hints(kind).items()
    }
    schema: dict[str, Any] = {
        "type": "object", "properties": inner, "required": _required(kind), "additionalProperties": False,
    }  # fmt: skip
    if _refers_to(inner, name) or inside:
        definitions[name] = schema
        return {"$ref": f"#/$defs/{name}"}
    return schema


def _refers_to(value: Any, name: str) -> bool:
    if isinstance(value, dict):
        return value.get("$ref") == f"#/$defs/{name}" or any(_refers_to(each, name) for each in value.values())
    return isinstance(value, list) and any(_refers_to(each, name) for each in value)


def _hints(kind: Any) -> dict[str, Any]:
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise _unsupported(kind, f"the name {error.name!r} in it is not defined in the module") from error
    if dataclasses.is_dataclass(kind):
        return {each.name: hints[each.name] for each in dataclasses.fields(kind) if each.init}
    return hints


def _required(kind: Any) -> list[str]:
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return [
            each.name for each in dataclasses.fields(kind)
            if each.init and each.default is missing and each.default_factory is missing
        ]  # fmt: skip
    # Annotations that are still strings when the class is made hide `NotRequired` from its own table.
    found = {name: get_origin(each) for name, each in _hints(kind).items()}
    optional = typing.NotRequired
    return sorted(
        name for name, origin in found.items()
        if origin is typing.Required or (origin is not optional and name in kind.__required_keys__)
    )  # fmt: skip


def _object(value: Any, kind: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _mismatch(path, "an object", value)
    hints = _hints(kind)
    for name in value:
        if name not in hints:
            raise _mismatch(f"{path}.{name}", "no such name", value[name])
    for name in _required(kind):
        if name not in value:
            raise _mismatch(f"{path}.{name}", "a value", None)
    found = {name: converted(value[name], each, f"{path}.{name}") for name, each in hints.items() if name in value}
    return kind(**found) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else found


def _container(value: Any, kind: Any, origin: Any, path: str) -> Any:
    arguments = get_args(kind)
    if origin in (list, Sequence, tuple):
        if not isinstance(value, (list, tuple)):
            raise _mismatch(path, "a list", value)
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            if len(arguments) != len(value):
                raise _mismatch(path, f"{len(arguments)} items", value)
            return tuple(converted(each, kind, f"{path}[{n}]") for n, (each, kind) in enumerate(zip(value, arguments, strict=True)))
        inner = arguments[0] if arguments else Any
        found = [converted(each, inner, f"{path}[{n}]") for n, each in enumerate(value)]
        return tuple(found) if origin is tuple else found
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch(path, "an object", value)
        inner = arguments[1] if arguments else Any
        return {key: converted(each, inner, f"{path}.{key}") for key, each in value.items()}
    raise _unsupported(kind, "there is no JSON for it")


def _one_of(value: Any, kinds: tuple[Any, ...], path: str) -> Any:
    first: HarnessError | None = None
    for kind in kinds:
        try:
            return converted(value, kind, path)
        except HarnessError as error:
            first = first or error
    assert first is not None
    raise _mismatch(path, " or ".join(_named(each) for each in kinds), value) from first


def _plain(value: Any, kind: Any, path: str) -> Any:
    if kind in (None, type(None)):
        good = value is None
    elif kind is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
    elif kind is int:
        good = isinstance(value, int) and not isinstance(value, bool)
    else:
        good = isinstance(value, kind)
    if not good:
        raise _mismatch(path, _named(kind), value)
    return float(value) if kind is float else value


def _by_model(value: Any, kind: Any, path: str) -> Any:
    try:
        return kind.model_validate(value)
    except ValueError as error:
        reason = str(error)
        raise HarnessError(
            "output_schema_mismatch", f"{path or 'the value'}: {reason}", "let the child write what the model takes"
        ) from error


def _named(kind: Any) -> str:
    return "null" if kind in (None, type(None)) else getattr(kind, "__name__", str(kind))


def _mismatch(path: str, wanted: str, value: Any) -> HarnessError:
    return HarnessError(
        "output_schema_mismatch", f"{path.lstrip('.') or 'the value'}: {wanted} expected, not {value!r:.80}",
        "let the child write what the type says, or change the type",
    )  # fmt: skip


def _unsupported(kind: Any, reason: str) -> HarnessError:
    return HarnessError(
        "schema_unsupported", f"{_named(kind)} cannot be a JSON schema: {reason}",
        "use dataclasses, TypedDicts, models, literals, enums, lists, mappings and plain values",
    )  # fmt: skip
