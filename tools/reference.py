"""Writes docs/reference from the code: `python tools/reference.py`. A test fails when a page is stale.

Each page is made from the one table that the program itself runs by (routes, error codes, event types, limits,
transitions, configuration structs), so nothing is written by hand twice. `pages()` gives the texts by file
name; nothing is written by importing this module.
"""

from __future__ import annotations

import ast
import inspect
import runpy
import sys
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from flakes.cli.reference import reference as cli_reference
from flakes.core import assignment, limits, run, task
from flakes.server import openapi
from flakes.server.app import ENDPOINTS
from flakes.server.routing import Endpoint
from flakes.wire import config
from flakes.wire.errors import CODES
from flakes.wire.events import TYPES, Event

ROOT = Path(__file__).parents[1]
DIRECTORY = ROOT / "docs" / "reference"

GENERATED = "This page is generated from the program: `python tools/reference.py`.\n"


def pages() -> dict[str, str]:
    """The text of every page by its file name."""
    return {
        "api.md": "".join(api()),
        "cli.md": cli_reference(),
        "configuration.md": "".join(configuration()),
        "coverage.md": "".join(coverage()),
        "errors.md": "".join(errors()),
        "events.md": "".join(events()),
        "limits.md": "".join(limits_page()),
        "states.md": "".join(states()),
    }


# The HTTP API


def api() -> Iterator[str]:
    """Routes by resource, then the fields of every body and answer."""
    document: dict[str, Any] = msgspec.json.decode(openapi.document(ENDPOINTS))
    yield f"# HTTP API\n\n{GENERATED}"
    yield textwrap.dedent("""
        JSON over HTTP, authenticated by `Authorization: Bearer <token>`; `flakes auth token` prints the
        one in use. The same in OpenAPI 3.1 is at `/openapi.json` of every server. `{run}` and
        `{projectKey}` take a key or an id. Lists take `limit` and `cursor` and answer `nextCursor`, which
        is `null` at the end. Refusals are those of [errors.md](errors.md), limits those of
        [limits.md](limits.md). Unknown fields and query parameters are refused by name.

        Two addresses speak WebSocket: `/v1/sandboxes/{sandboxId}/stream` and
        `/v1/hosts/{hostId}/stream`, each with the credential of that very sandbox or host.
    """)
    for tag in dict.fromkeys(endpoint.tag for endpoint in ENDPOINTS):
        of_tag = [endpoint for endpoint in ENDPOINTS if endpoint.tag == tag]
        yield f"\n## {tag[0].upper()}{tag[1:]}\n"
        for endpoint in of_tag:
            operation = document["paths"][endpoint.path][endpoint.method.lower()]
            yield from _route(endpoint, operation)
    yield "\n## Bodies and answers\n\nA field that is absent from an answer has its default value.\n"
    queries = {endpoint.query.__name__ for endpoint in ENDPOINTS if endpoint.query is not None}
    for name, schema in sorted(document["components"]["schemas"].items()):
        if "properties" in schema and name not in queries:
            yield from _schema(name, schema)


def _route(endpoint: Endpoint, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n### `{endpoint.method} {endpoint.path}`\n\n{endpoint.summary}\n\n"
    if endpoint.family is None:
        yield "- Credential: none\n"
    elif endpoint.family != "user":
        yield f"- Credential: of the {endpoint.family}\n"
    query = [p for p in operation["parameters"] if p["in"] == "query"]
    if query:
        yield f"- Query: {', '.join(_parameter(p) for p in query)}\n"
    if endpoint.body is bytes:
        yield "- Body: bytes\n"
    elif endpoint.body is not None:
        yield f"- Body: {_link(endpoint.body.__name__)}\n"
    statuses = "/".join(status for status in operation["responses"] if status.startswith("2"))
    yield f"- Answer: {statuses}, {_answer(endpoint)}\n"
    codes = [
        f"`{code}`"
        for status, response in operation["responses"].items()
        if not status.startswith("2")
        for code in response["description"].split(", ")
        if code not in ("internal_error", "database_unavailable")
    ]
    if codes:
        yield f"- Refusals: {', '.join(codes)}\n"


def _parameter(parameter: Mapping[str, Any]) -> str:
    schema = parameter["schema"]
    default = schema.get("default")
    given = "" if default is None else f", default {msgspec.json.encode(default).decode()}"
    return f"`{parameter['name']}` ({_type(schema)}{given})"


def _answer(endpoint: Endpoint) -> str:
    if endpoint.path == "/v1/events":
        return f"`text/event-stream` of {_link('Event')} (see [events.md](events.md))"
    if endpoint.answer in (bytes, "*/*"):
        return "bytes"
    if isinstance(endpoint.answer, str):
        return f"`{endpoint.answer}`"
    if isinstance(endpoint.answer, type) and issubclass(endpoint.answer, msgspec.Struct):
        return _link(endpoint.answer.__name__)
    return "JSON"


def _schema(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n### {name}\n"
    if schema.get("description"):
        yield f"\n{_prose(schema['description'])}\n"
    yield "\n| Field | Type | Default |\n| --- | --- | --- |\n"
    required = schema.get("required", [])
    for field, kind in schema["properties"].items():
        if field in required:
            default = "required"
        elif "default" in kind:
            default = f"`{msgspec.json.encode(kind['default']).decode()}`"
        else:
            default = "empty"
        yield f"| `{field}` | {_type(kind)} | {default} |\n"


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with its bounds."""
    if "$ref" in schema:
        return _link(schema["$ref"].rsplit("/", 1)[1])
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("format") or schema.get("type", "anything")
    if kind == "array":
        kind = f"list of {_type(schema.get('items', {}))}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        of = schema["additionalProperties"]
        kind = f"object of {_type(of)}" if of else "object"
    bounds = [
        f"{word} {schema[key]:g}"
        for key, word in (
            ("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"),
            ("minLength", "at least"), ("maxLength", "at most"), ("minItems", "at least"),
            ("maxItems", "at most"), ("maxProperties", "at most"),
        )
        if key in schema
    ]  # fmt: skip
    unit = " characters" if "maxLength" in schema else " entries" if "maxItems" in schema else ""
    return f"{kind} ({', '.join(bounds)}{unit})" if bounds else kind


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


# What is built, and where it is shown


def coverage() -> Iterator[str]:
    """Every route and command that users can rely on, and the test of each."""
    rows = runpy.run_path(str(ROOT / "tests" / "coverage_rows.py"))
    yield f"# Coverage\n\n{GENERATED}"
    yield textwrap.dedent("""
        The routes and commands that users, scripts and agents can rely on, and the test that shows each to
        be true. What is *planned* is not there yet. The rows are in `tests/coverage_rows.py`.
    """)
    for title, groups in (("Routes", rows["ROUTES"]), ("Commands", rows["COMMANDS"])):
        yield f"\n## {title}\n"
        for group, tests in groups.items():
            yield f"\n### {title}: {group[0].lower()}{group[1:]}\n\n| {title[:-1]} | Test |\n| --- | --- |\n"
            for row, test in tests.items():
                yield f"| `{_cell(row)}` | {f'`{test}`' if test else 'planned'} |\n"


# Errors, events, limits


def errors() -> Iterator[str]:
    """The table of codes, those of the server apart from those of the tools."""
    yield f"# Errors\n\n{GENERATED}"
    yield textwrap.dedent("""
        A refusal is `{"error": "<code>", "message": "<sentence>", "fix": "<what to do>"}`, some with more
        fields. A request that is refused changed nothing. Where a code says *yes* under Retry, the same
        request may succeed later, unchanged; 429 and 503 come with `Retry-After`. The last column is the
        exit code of a command that ends with this error.

        | Code | Status | Meaning | Retry | Exit |
        | --- | --- | --- | --- | --- |
    """)
    for name, code in CODES.items():
        if code.status:
            retry = "yes" if code.retryable else ""
            yield f"| `{name}` | {code.status} | {_cell(code.meaning)} | {retry} | {code.exit} |\n"
    yield "\n## Of the tools themselves\n\nNever sent by a server, and printed the same way.\n\n"
    yield "| Code | Meaning | Retry | Exit |\n| --- | --- | --- | --- |\n"
    for name, code in CODES.items():
        if not code.status:
            retry = "yes" if code.retryable else ""
            yield f"| `{name}` | {_cell(code.meaning)} | {retry} | {code.exit} |\n"


def events() -> Iterator[str]:
    """The table of event types."""
    yield f"# Events\n\n{GENERATED}"
    fields = ", ".join(f"`{field.encode_name}`" for field in msgspec.structs.fields(Event))
    yield textwrap.dedent(f"""
        Every state change is an event. `GET /v1/events` streams them as server-sent events, `GET
        /v1/tasks/{{taskId}}/activity` pages through those of one task. The `id` of a frame is the
        event's cursor: `Last-Event-ID` or `?after=` resumes after it, without gap or repeat. The `data`
        of a frame is one JSON object with {fields}; fields that do not apply are absent.

        | Type | When |
        | --- | --- |
    """)
    for name, meaning in TYPES.items():
        yield f"| `{name}` | {_cell(meaning)} |\n"


def limits_page() -> Iterator[str]:
    """The table of limits."""
    yield f"# Limits\n\n{GENERATED}"
    yield (
        "\nBreaking a limit is a clear refusal that names it, and changes nothing.\n"
        "\n| Limit | Value |\n| --- | --- |\n"
    )
    for name, value in vars(limits).items():
        if name.isupper() and name not in ("KIB", "MIB", "GIB"):
            yield f"| {_limit_name(name)} | {_limit_value(name, value)} |\n"


def _limit_name(name: str) -> str:
    words = name.lower()
    for ending in ("_bytes_max", "_bytes_default", "_s_max", "_max", "_default"):
        if words.endswith(ending):
            words = words.removesuffix(ending)
            break
    text = words.replace("_", " ").removesuffix(" length")
    return f"{text[0].upper()}{text[1:]}{', by default' if name.endswith('DEFAULT') else ''}"


def _limit_value(name: str, value: int) -> str:
    if "_BYTES_" in name:
        unit = next(u for u in (limits.GIB, limits.MIB, limits.KIB, 1) if value % u == 0)
        return f"{value // unit} { {limits.GIB: 'GiB', limits.MIB: 'MiB', limits.KIB: 'KiB', 1: 'bytes'}[unit]}"
    if name.endswith("_S_MAX"):
        return f"{value // 86_400} days"
    if "_LENGTH_" in name and "PAGE" not in name:
        return f"{value:,} characters"
    return f"{value:,}"


# States


def states() -> Iterator[str]:
    """Diagrams of the transition tables, and how a run's state is derived."""
    yield f"# States\n\n{GENERATED}"
    yield f"\n## Task\n\n{_prose(task.TaskStatus.__doc__)}\n"
    edges = [(str(old), str(new), str(event)) for (old, event), new in task.TRANSITIONS.items()]
    yield _diagram(str(task.TaskStatus.SAVED), edges, [str(s) for s in task.TaskStatus if s in task.TERMINAL])
    yield "\n| From | What happens | To |\n| --- | --- | --- |\n"
    for old, new, event in edges:
        yield f"| `{old}` | {event.replace('_', ' ')} | `{new}` |\n"
    yield f"\n## Assignment\n\n{_prose(assignment.__doc__)} {_prose(assignment.AssignmentState.__doc__)}\n"
    moves = [(str(old), str(new), "") for old, all_new in assignment.TRANSITIONS.items()
             for new in sorted(all_new)]  # fmt: skip
    ends = [str(s) for s in assignment.AssignmentState if not assignment.TRANSITIONS[s]]
    yield _diagram(str(assignment.AssignmentState.OFFERED), moves, ends)
    yield f"\n## Run\n\n{_prose(run.__doc__)} {_prose(run.RunState.__doc__)}\n\n"
    yield f"States: {', '.join(f'`{state}`' for state in run.RunState)}.\n\n"
    yield f"{_prose(run.derive.__doc__)}\n"


def _diagram(
    first: str, edges: Iterable[tuple[str, str, str]], terminal: Sequence[str]
) -> str:
    joined: dict[tuple[str, str], list[str]] = {}
    for old, new, label in edges:
        joined.setdefault((old, new), []).append(label.replace("_", " "))
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for (old, new), labels in joined.items():
        told = ", ".join(label for label in labels if label)
        lines.append(f"    {old} --> {new}{f': {told}' if told else ''}")
    lines += [f"    {state} --> [*]" for state in terminal]
    return "\n" + "\n".join([*lines, "```"]) + "\n"


# Configuration


def configuration() -> Iterator[str]:
    """The keys of the three configuration files, with annotated examples."""
    yield f"# Configuration\n\n{GENERATED}"
    yield "\nFiles are TOML with camelCase keys. Unknown keys are refused with the line and a suggestion.\n"
    documented = _field_docs(config)
    for name, kind, command in (
        ("server", config.ServerConfig, "flakes server --config server.toml"),
        ("host", config.HostConfig, "flakes host run --config host.toml"),
        ("sandbox", config.SandboxConfig, "flakes sandbox --config sandbox.toml"),
    ):
        yield f"\n## {name}.toml\n\n`{command}`; `flakes config schema {name}` prints this example.\n"
        yield f"\n```toml\n{config.EXAMPLES[name].rstrip()}\n```\n"
        yield from _keys(kind, "", documented)


def _keys(
    kind: type[msgspec.Struct], section: str, documented: Mapping[tuple[str, str], str]
) -> Iterator[str]:
    plain: list[str] = []
    nested: list[tuple[str, type[msgspec.Struct]]] = []
    for field in msgspec.structs.fields(kind):
        inner = _struct_of(field.type)
        if inner is not None:
            nested.append((field.encode_name, inner))
            continue
        default = _default(field)
        meaning = documented.get((kind.__name__, field.name), "")
        plain.append(f"| `{field.encode_name}` | {default} | {_cell(meaning)} |\n")
    if section:
        yield f"\n### `{section}`\n"
        prose = _prose(kind.__doc__)
        yield f"\n{prose}\n" if prose else ""
    if plain:
        yield "\n| Key | Default | Meaning |\n| --- | --- | --- |\n"
        yield from plain
    for name, inner in nested:
        many = kind is config.HostConfig
        yield from _keys(inner, f"[[{name}]]" if many else f"[{name}]", documented)


def _struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """The struct behind a field's type, also inside a list."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    for argument in getattr(kind, "__args__", ()):
        found = _struct_of(argument)
        if found is not None:
            return found
    return None


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        assert field.default_factory is not msgspec.NODEFAULT
        value = field.default_factory()
    return "none" if value is None else f"`{msgspec.json.encode(value).decode()}`"


def _field_docs(module: types.ModuleType) -> dict[tuple[str, str], str]:
    """The strings that stand below fields, by (class, field)."""
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for before, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[node.name, before.target.id] = str(after.value.value)
    return found


def _prose(text: str | None) -> str:
    parts = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts).replace("``", "`")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Write every page; the exit code."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        path = DIRECTORY / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
