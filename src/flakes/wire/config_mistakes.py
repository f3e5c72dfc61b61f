"""What is wrong with a configuration file, for the person who wrote it: key, line, sentence, and what to write instead.

The decoder names fields by their types (`pools[...].env[...]`, "Expected `int`"); here that becomes the key as it stands
in the file, in TOML's words, with a line of the example where the example has that key.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin

import msgspec

from flakes.wire.codec import BodyError, Issue, convert

_WORDS: Final = {
    "int": "a whole number", "float": "a number", "str": "text in quotes", "bool": "true or false",
    "array": "a list", "object": "a table", "null": "nothing", "datetime": "a date",
}  # fmt: skip
_BOUNDS: Final = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_TOKEN: Final = re.compile(r"([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_AT_LINE: Final = re.compile(r"\(at line (\d+), column \d+\)")


def toml_line(message: str, text: str) -> int:
    """The line that a TOML decoder names; the last one for the end of the file."""
    found = _AT_LINE.search(message)
    return int(found[1]) if found else text.count("\n") + 1


def described(issue: Issue, kind: Any, values: dict[str, Any], example: str) -> tuple[str, str, str]:
    """(key, sentence, fix) of a decoder's complaint; `example` is the annotated file of that kind."""
    where, expected = _resolved(issue.path, kind, values)
    message = issue.message
    missing = re.match(r"Object missing required field `(\w+)`", message)
    if missing:
        where, message = f"{where}.{missing[1]}".lstrip("."), "it is missing"
    elif message.startswith("Invalid enum value"):
        chosen = ", ".join(f'"{value}"' for value in _choices(expected))
        message = f"{message.removeprefix('Invalid enum value ')} is not one of: {chosen}"
    else:
        message = _sentence(message)
    line = _example_line(example, where)
    near = re.search(r"did you mean `(\w+)`", message)
    if near:
        return where, message, f"write `{near[1]}`, or leave it out"
    if message.startswith("unknown field"):
        return where, message, "leave it out"
    return where, message, f"write for example `{line}`" if line else ""


def line_of(text: str, dotted: str) -> int | None:
    """The line on which the last named key of a path stands (best effort, for the message only). Of an
    element of a list of tables it is looked for in that element; a key that is missing is its table's."""
    begin, end, line = 0, len(text), None
    for name, _ in _TOKEN.findall(dotted):
        if not name:
            continue
        quoted = rf"[\"']?{re.escape(name)}[\"']?"
        headers = [m.start() for m in re.finditer(rf"^[ \t]*\[\[\s*{quoted}\s*\]\]", text, re.M)]
        number = re.search(rf"(?:^|\.){re.escape(name)}\[(\d+)\]", dotted)
        if headers and number and int(number[1]) < len(headers):
            at = int(number[1])
            begin = headers[at]
            end = headers[at + 1] if at + 1 < len(headers) else len(text)
            line = _number(text, begin)
            continue
        # `a.name = `, `{ name = `, `name.b = `, `[name]`, `[a.name]`, `[name.b]`
        written = rf"(?:^[ \t]*(?:[\w-]+\s*\.\s*)*|[{{,]\s*){quoted}\s*[=.]"
        found = re.compile(rf"{written}|^[ \t]*\[+\s*(?:[\w.-]+\.)?{quoted}\s*[\].]", re.M).search(text, begin, end)
        if found:
            begin = found.start() + len(found[0]) - len(found[0].lstrip(" \t\n{,"))
            begin = text.rfind("\n", 0, begin) + 1
            line = _number(text, begin)
    return line


def _number(text: str, at: int) -> int:
    """The line of the first thing at or after a position."""
    return text.count("\n", 0, at + len(text[at:]) - len(text[at:].lstrip())) + 1


def _resolved(path: str, kind: Any, values: Any) -> tuple[str, Any]:
    """A path of the decoder, which leaves out which element it means (`[...]`), with the first one that fails;
    and the type that stands there."""
    where = ""
    for name, index in _TOKEN.findall(path):
        kind = _plain(kind)
        if name:
            where, kind = f"{where}.{name}".lstrip("."), _field(kind, name)
            values = dict(_items(values)).get(name)
            continue
        kind = get_args(kind)[-1] if get_args(kind) else None
        for key, value in _items(values):
            if index in ("...", str(key)) and (index != "..." or not _fits(value, kind)):
                where = f"{where}[{key}]" if isinstance(key, int) else f"{where}.{key}"
                values = value
                break
    return where, _plain(kind)


def _items(values: Any) -> Iterator[tuple[int | str, Any]]:
    if isinstance(values, dict):
        yield from cast("dict[str, Any]", values).items()
    elif isinstance(values, list):
        yield from enumerate(cast("list[Any]", values))


def _fits(value: Any, kind: Any) -> bool:
    try:
        convert(value, kind)
    except BodyError:
        return False
    return True


def _plain(kind: Any) -> Any:
    """A type without its bounds, and without `| None`."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (types.UnionType, Union):
        return next((_plain(each) for each in get_args(kind) if each is not type(None)), None)
    return kind


def _field(kind: Any, name: str) -> Any:
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return None
    return next((f.type for f in msgspec.structs.fields(kind) if f.encode_name == name), None)


def _choices(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _sentence(message: str) -> str:
    wrong = re.fullmatch(r"Expected `([^`]+)`, got `(\w+)`", message)
    if wrong:
        wanted = " or ".join(_WORDS.get(each.strip(), each) for each in wrong[1].split("|") if each.strip() != "null")
        return f"it must be {wanted}, not {_WORDS.get(wrong[2], wrong[2])}"
    length = re.fullmatch(r"Expected `(\w+)` of length ([<>]=?) (\d+)", message)
    if length and (length[2], length[3]) == (">=", "1"):
        return "it must not be empty"
    if length:
        return f"it must have {_BOUNDS[length[2]]} {length[3]} {'characters' if length[1] == 'str' else 'entries'}"
    bound = re.fullmatch(r"Expected `(\w+)` ([<>]=?) ([\d.]+)", message)
    if bound:
        return f"it must be {_BOUNDS[bound[2]]} {float(bound[3]):g}"
    return "it does not look like one" if "matching regex" in message else message


def _example_line(example: str, where: str) -> str:
    """How the example writes that key, in the table of that name."""
    *tables, key = re.sub(r"\[\d+\]", "", where).split(".")
    table = ""
    for text in example.splitlines():
        text = text.removeprefix("# ")
        header = re.match(r"\[+([\w.]+)\]+", text)
        if header:
            table = header[1]
        found = re.match(rf"{re.escape(key)} = [^#]+", text)
        if found and table == ".".join(tables):
            return found[0].strip()
    return ""
