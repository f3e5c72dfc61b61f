"""The one JSON codec: encoding, strict decoding of request bodies, and readable reasons for refusal."""

from __future__ import annotations

import difflib
import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")


class Frozen(msgspec.Struct, frozen=True, rename="camel", omit_defaults=False, kw_only=True):
    """Base of answers and stream messages: immutable, camelCase, tolerant of unknown fields."""


class Body(
    msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, kw_only=True
):
    """Base of request bodies: like `Frozen`, but an unknown field is refused by name."""


class Issue(Frozen, frozen=True, kw_only=True):
    """One thing wrong with a body: a path such as ``tasks[2].title`` and a sentence."""

    path: str
    message: str


class BodyError(ValueError):
    """A body that is not what the route takes; `issues` says where and why."""

    def __init__(self, issues: list[Issue]) -> None:
        super().__init__(issues[0].message)
        self.issues = issues


def encode(value: object) -> bytes:
    """JSON bytes of any wire value."""
    return _encoder.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """Decode and validate, or raise `BodyError` with a path, a sentence and, for a typo, a suggestion."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise BodyError([issue_from(error, kind)]) from error
    except msgspec.DecodeError as error:
        raise BodyError([Issue(path="", message=f"not valid JSON: {error}")]) from error


def convert(value: object, kind: type[T]) -> T:
    """Like `decode`, for values that are already Python objects (TOML, tests)."""
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as error:
        raise BodyError([issue_from(error, kind)]) from error


def issue_from(error: msgspec.ValidationError, kind: Any) -> Issue:
    """Turn the decoder's message into a path and a sentence; suggest the nearest known field."""
    text = str(error)
    match = _PATH.search(text)
    path = match["path"] if match else ""
    message = text[: match.start()] if match else text
    unknown = _UNKNOWN.search(message)
    if unknown:
        name = unknown["name"]
        near = difflib.get_close_matches(name, _field_names(kind), n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        path = f"{path}.{name}".lstrip(".")
        message = f"unknown field `{name}`{hint}"
    return Issue(path=path, message=message)


def _field_names(kind: Any, seen: frozenset[object] = frozenset()) -> list[str]:
    """Every field name of a struct and the structs inside it (for suggestions only)."""
    if kind in seen:
        return []
    names: list[str] = []
    arguments: tuple[Any, ...] = getattr(kind, "__args__", ())
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            names.append(field.encode_name)
            names += _field_names(field.type, seen | {kind})
        return names
    for argument in arguments:
        names += _field_names(argument, seen)
    return names
