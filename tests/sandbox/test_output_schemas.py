"""JSON outputs against their schemas, as a daemon checks them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flakes.core.task import Outcome
from sandbox.controlplane import ControlPlane, DaemonProcess, memory_mib, shell, show

LIST = {"type": "array", "items": {"type": "object", "required": ["name"]}}


def writing(**outputs: Any) -> str:
    """A line that writes these outputs: texts as they are, the rest as JSON."""
    lines = [
        f"cat > $FLAKES_OUTPUTS/{key} <<'END'\n{value if isinstance(value, str) else json.dumps(value)}\nEND"
        for key, value in outputs.items()
    ]
    return "\n".join(lines)


def declared(schema: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"kind": "json", **({} if schema is None else {"schema": schema}), **more}


def test_a_valid_output_passes_and_the_daemon_stays_small(
    plane: ControlPlane, daemon: DaemonProcess
) -> None:
    line = writing(small=[{"name": "a"}])
    line += """\npython3 -c 'import json; print(json.dumps([{"name": "n" * 100}] * 100000))' > $FLAKES_OUTPUTS/large"""
    outputs = {"small": declared(LIST), "large": declared(LIST, maxBytes=20_000_000)}
    result = plane.run(shell(line, declaredOutputs=outputs))
    assert result.outcome is Outcome.SUCCEEDED, result.error
    assert json.loads(result.outputs["small"].text) == [{"name": "a"}]
    assert result.outputs["large"].size_bytes > 11_000_000
    show(f"{memory_mib(daemon.pid):.0f} MiB resident after checking 11 MB of JSON")
    assert memory_mib(daemon.pid) < 80


def test_a_violation_names_output_place_and_rule(plane: ControlPlane) -> None:
    line = writing(report=[{"name": 1}, {}, 3], notes={"a": 1})
    schema = {"items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}}
    outputs = {"report": declared(schema), "notes": declared({"type": "array"})}
    result = plane.run(shell(line, declaredOutputs=outputs))
    assert result.outcome is Outcome.FAILED
    assert result.error.code == "output_invalid"
    assert "`report`" in result.error.message
    assert "$[" in result.error.message
    assert {(p["output"], p["path"], p["rule"], p["rulePath"]) for p in result.error.details["problems"]} == {
        ("report", "$[0].name", "type", "$.items.properties.name.type"),
        ("report", "$[1]", "required", "$.items.required"),
        ("report", "$[2]", "type", "$.items.type"),
        ("notes", "$", "type", "$.type"),
    }
    assert "satisfies the schema" in result.error.details["fix"]


def test_at_most_twenty_problems_are_told(plane: ControlPlane) -> None:
    outputs = {"a": declared({"items": {"type": "string"}}), "b": declared({"items": {"type": "string"}})}
    line = writing(a=list(range(100)), b=list(range(100)))
    result = plane.run(shell(line, declaredOutputs=outputs))
    assert result.error.code == "output_invalid"
    assert len(result.error.details["problems"]) == 20


@pytest.mark.parametrize(
    ("content", "schema"),
    [([1], LIST), ("{", LIST), ("{", None), ("\ufeff{}", {}), ("NaN", {}), ("{} {}", None)],
)
def test_an_optional_output_that_is_not_valid_is_left_out(
    plane: ControlPlane, content: Any, schema: dict[str, Any] | None
) -> None:
    outputs = {"maybe": declared(schema, required=False), "sure": {}}
    result = plane.run(shell(writing(maybe=content, sure="here"), declaredOutputs=outputs))
    assert result.outcome is Outcome.SUCCEEDED
    assert set(result.outputs) == {"sure"}
    told = [text for text in plane.text(result.assignment_id, "system") if "`maybe`" in text]
    assert len(told) == 1
    assert "left out" in told[0]


def test_large_json_without_a_schema_is_checked_apart(
    plane: ControlPlane, daemon: DaemonProcess
) -> None:
    line = "python3 -c 'print(\"[\" + \"[],\" * 4000000 + \"[]\")' > $FLAKES_OUTPUTS/out"
    result = plane.run(shell(line, declaredOutputs={"out": declared(maxBytes=20_000_000)}))
    assert result.error.code == "output_invalid"
    assert result.error.details["problems"][0]["rule"] == "json"
    assert memory_mib(daemon.pid) < 80


def test_what_cannot_be_checked_within_the_limits_is_not_passed(
    plane: ControlPlane, daemon: DaemonProcess
) -> None:
    line = "python3 -c 'print(\"[\" + \"{},\" * 20000000 + \"{}]\")' > $FLAKES_OUTPUTS/out"
    result = plane.run(shell(line, declaredOutputs={"out": declared({}, maxBytes=64 * 1024 * 1024)}))
    assert result.error.code == "output_invalid"
    assert result.error.details["problems"][0]["rule"] == "limits"
    assert memory_mib(daemon.pid) < 80


def test_deep_nesting_harms_nobody(plane: ControlPlane, daemon: DaemonProcess) -> None:
    line = "python3 -c 'print(\"[\" * 100000 + \"]\" * 100000)' > $FLAKES_OUTPUTS/out"
    for schema in (None, {"items": {"$ref": "#"}}):
        result = plane.run(shell(line, declaredOutputs={"out": declared(schema)}))
        assert result.error.code == "output_invalid"


def test_a_schema_that_an_older_server_let_pass_fails_the_task_clearly(plane: ControlPlane) -> None:
    outputs = {"out": declared({"$ref": "https://example.com/none"})}
    result = plane.run(shell(writing(out=1), declaredOutputs=outputs))
    assert result.error.code == "output_invalid"
    assert result.error.details["problems"][0]["rule"] == "schema"
