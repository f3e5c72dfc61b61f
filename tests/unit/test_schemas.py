"""JSON Schema of outputs: what can be used, what is wrong, and where."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from flakes.core.limits import OUTPUT_SCHEMA_SIZE_BYTES_MAX
from flakes.wire import schemas

REPORT = {
    "$schema": schemas.DIALECT,
    "type": "object",
    "required": ["title", "items"],
    "additionalProperties": False,
    "properties": {
        "title": {"type": "string", "minLength": 3},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
    },
    "$defs": {"item": {"type": "object", "properties": {"odd name": {"type": "integer"}}}},
}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        REPORT,
        {"$ref": "#"},
        {"$ref": schemas.DIALECT},
        {"$schema": f"{schemas.DIALECT}#"},
        {"$id": "https://example.com/a", "$defs": {"b": {"$id": "b", "type": "null"}}, "$ref": "https://example.com/b"},
        {"$defs": {"x": {"$anchor": "here"}}, "$ref": "#here"},
        {"prefixItems": [{"type": "integer"}], "unevaluatedItems": False},
        {"pattern": "^(?=a)b"},
        {"x-unknown-keyword": 1},
    ],
)
def test_a_schema_that_can_be_used(schema: dict[str, object]) -> None:
    assert schemas.schema_problem(schema) is None


@pytest.mark.parametrize(
    ("schema", "path", "rule"),
    [
        ({"type": "nope"}, "$.type", "anyOf"),
        ({"properties": {"a b": {"minimum": "x"}}}, "$.properties['a b'].minimum", "type"),
        ({"allOf": [{}, {"required": "a"}]}, "$.allOf[1].required", "type"),
        ({"pattern": "("}, "$.pattern", "pattern"),
        ({"properties": {"a": {"$ref": "https://example.com/x#/y"}}}, "$.properties.a['$ref']", "$ref"),
        ({"anyOf": [{"$ref": "file:///etc/passwd"}]}, "$.anyOf[0]['$ref']", "$ref"),
        ({"items": {"$dynamicRef": "http://localhost:1/x"}}, "$.items['$dynamicRef']", "$dynamicRef"),
        ({"items": {"$ref": "#/$defs/none"}}, "$.items['$ref']", "$ref"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "$['$schema']", "$schema"),
        ({"$schema": "https://example.com/meta"}, "$['$schema']", "$schema"),
        ({"$schema": 7}, "$['$schema']", "$schema"),
        ({"description": "x" * OUTPUT_SCHEMA_SIZE_BYTES_MAX}, "$", "size"),
    ],
)
def test_a_schema_that_cannot(schema: dict[str, object], path: str, rule: str) -> None:
    problem = schemas.schema_problem(schema)
    assert problem is not None
    assert (problem.path, problem.rule) == (path, rule), problem


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, object] = {}
    for _ in range(400):
        schema = {"items": schema}
    problem = schemas.schema_problem(schema)
    assert problem is not None
    assert "imit" in problem.message


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from a server that would answer, either."""
    import http.server
    import threading

    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/schema.json"
        assert schemas.schema_problem({"$ref": url}) is not None
        assert schemas.schema_problem({"$schema": url}) is not None
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked == []


def test_every_problem_has_its_place_and_its_rule() -> None:
    value = {"title": "x", "items": [{}, {"odd name": "1"}], "more": 1}
    found = schemas.problems(REPORT, value, 20)
    assert {(p.path, p.rule, p.rule_path) for p in found} == {
        ("$", "additionalProperties", "$.additionalProperties"),
        ("$.title", "minLength", "$.properties.title.minLength"),
        ("$.items[1]['odd name']", "type", "$['$defs'].item.properties['odd name'].type"),
    }
    assert all(p.message and len(p.message) <= 300 for p in found)
    assert schemas.problems(REPORT, {"title": "abc", "items": []}, 20) == []


def test_problems_are_counted_and_short() -> None:
    schema = {"items": {"type": "string"}}
    assert len(schemas.problems(schema, list(range(1000)), 20)) == 20
    (one,) = schemas.problems({"type": "integer"}, "y" * 100_000, 20)
    assert len(one.message) == 300
    assert one.message.endswith('is not of type "integer"')


def test_a_pattern_cannot_take_for_ever() -> None:
    began_s = time.monotonic()
    schemas.problems({"pattern": r"^(?:(a+)+)+\1$"}, "a" * 60 + "!", 20)
    assert time.monotonic() - began_s < 5


def test_importing_the_wire_loads_no_schema_library() -> None:
    code = (
        "import sys, flakes.wire.schemas, flakes.store.definitions, flakes.sandbox.outputs;"
        "assert 'jsonschema_rs' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
