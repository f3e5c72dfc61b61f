"""The OpenAPI 3.1 document, made from the route table: nothing in it is written by hand twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from flakes import __version__
from flakes.server.routing import SAFE, Endpoint
from flakes.wire.auth import CSRF_COOKIE, CSRF_HEADER, SESSION_COOKIE
from flakes.wire.errors import CODES

NAMED_FOR_PORT = "Where the server is reached by a port and has no public URL, `_` and the port follow the name."


class Error(msgspec.Struct, rename="camel"):
    """What every refusal looks like; some codes add details."""

    error: str
    message: str
    fix: str = ""


def document(endpoints: Sequence[Endpoint]) -> bytes:
    """The document as JSON."""
    kinds = [e.answer for e in endpoints if _is_struct(e.answer)]
    kinds += [e.body for e in endpoints if e.body not in (None, bytes)]
    kinds += [e.query for e in endpoints if e.query is not None]
    unique = list(dict.fromkeys([*kinds, Error]))
    _, components = msgspec.json.schema_components(unique, ref_template="#/components/schemas/{name}")
    _translate_patterns(components)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, components)
    return msgspec.json.format(msgspec.json.encode({
        "openapi": "3.1.0",
        "info": {"title": "Flakes", "version": __version__, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                family: {"type": "http", "scheme": "bearer", "bearerFormat": f"flakes_{family}_..."}
                for family in ("user", "host", "sandbox")
            } | {"session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE, "description": NAMED_FOR_PORT}},
        },
    }), indent=1)  # fmt: skip


def _translate_patterns(schema: Any) -> None:
    """JSON Schema's patterns are those of ECMAScript, which ends a text with `$` where Python has `\\Z`."""
    if isinstance(schema, list):
        for part in cast("list[Any]", schema):
            _translate_patterns(part)
    elif isinstance(schema, dict):
        fields = cast("dict[str, Any]", schema)
        if isinstance(pattern := fields.get("pattern"), str):
            fields["pattern"] = re.sub(r"\\Z$", "$", pattern)
        for part in fields.values():
            _translate_patterns(part)


def _operation(endpoint: Endpoint, components: dict[str, Any]) -> dict[str, Any]:
    handler = endpoint.handler
    operation: dict[str, Any] = {
        "operationId": f"{handler.__module__.rsplit('.', 1)[-1]}.{handler.__name__}",
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "security": _security(endpoint),
        "parameters": _parameters(endpoint, components),
        "responses": _responses(endpoint),
    }
    if endpoint.body is bytes:
        operation["requestBody"] = {"content": {"application/octet-stream": {}}}
    elif endpoint.body is not None:
        reference = {"$ref": f"#/components/schemas/{endpoint.body.__name__}"}
        operation["requestBody"] = {"content": {"application/json": {"schema": reference}}}
    return operation


def _security(endpoint: Endpoint) -> list[dict[str, list[str]]]:
    if endpoint.family is None:
        return []
    by_cookie = [{"session": []}] if endpoint.family == "user" and not endpoint.direct else []
    return [{endpoint.family: []}, *by_cookie]


def _parameters(endpoint: Endpoint, components: dict[str, Any]) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", endpoint.path)
    ]
    if endpoint.takes_key:
        schema = {"type": "string", "minLength": 1, "maxLength": 255}
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": schema})
    if endpoint.family == "user" and endpoint.method not in SAFE and not endpoint.direct:
        parameters.append({
            "name": CSRF_HEADER, "in": "header", "required": False, "schema": {"type": "string"},
            "description": f"With the session cookie: the value of the cookie `{CSRF_COOKIE}`. {NAMED_FOR_PORT}",
        })  # fmt: skip
    if endpoint.query is not None:
        for name, schema in components[endpoint.query.__name__]["properties"].items():
            parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    return parameters


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.answer is bytes:
        content: dict[str, Any] = {"application/octet-stream": {}}
    elif endpoint.path == "/v1/events":
        content = {"text/event-stream": {}}
    elif isinstance(endpoint.answer, str):
        content = {endpoint.answer: {}}
    elif _is_struct(endpoint.answer):
        schema = {"$ref": f"#/components/schemas/{endpoint.answer.__name__}"}
        content = {"application/json": {"schema": schema}}
    else:
        content = {"application/json": {}}
    if endpoint.streams:
        content = {**content, "text/event-stream": {}}
    responses: dict[str, Any] = {str(endpoint.status): {"description": endpoint.summary, "content": content}}
    if endpoint.creates:
        responses["201"] = {"description": "Created.", "content": content}
    for status, meaning in endpoint.also:
        responses[str(status)] = {"description": meaning} | ({} if status == 304 else {"content": content})
    if endpoint.accepts:
        responses["202"] = {"description": "Asked for, and not done yet.", "content": content}
    codes = {"internal_error", "database_unavailable", *endpoint.errors}
    if endpoint.body is not None:
        codes |= {"too_large"}
    if endpoint.family is not None:
        codes |= {"unauthorized", "forbidden"}
    if endpoint.family is not None or endpoint.query is not None or endpoint.body is not None:
        codes |= {"invalid_request"}
    if endpoint.takes_key:
        codes |= {"idempotency_conflict", "idempotency_in_progress"}
    if "{" in endpoint.path:
        codes |= {"not_found"}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes):
        by_status.setdefault(CODES[code].status, []).append(code)
    for status, names in sorted(by_status.items()):
        responses[str(status)] = {"description": ", ".join(names), "content": error}
    return responses


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
