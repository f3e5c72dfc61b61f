"""The JSON codec: strict bodies with useful refusals, tolerant messages, stable text."""

from __future__ import annotations

import pytest

from flakes.core import limits
from flakes.wire.codec import BodyError, Issue, convert, decode, encode
from flakes.wire.runs import GraphPost, RunPut
from flakes.wire.sandbox_stream import Ack
from flakes.wire.tasks import TaskDefinition


def issue(data: bytes, kind: type[object]) -> Issue:
    with pytest.raises(BodyError) as refused:
        decode(data, kind)
    (only,) = refused.value.issues
    return only


def test_an_unknown_field_is_named_and_the_right_one_suggested() -> None:
    found = issue(b'{"title": "t", "adapter": "noop", "dependOn": []}', TaskDefinition)
    assert found.path == "dependOn"
    assert found.message == "unknown field `dependOn`; did you mean `dependsOn`?"


def test_a_fault_deep_inside_is_named_by_its_path() -> None:
    body = b'{"name": "n", "tasks": [{"title": "a", "adapter": "x"}, {"title": 1, "adapter": "x"}]}'
    assert issue(body, GraphPost).path.replace("[...]", "[1]") == "tasks[1].title"
    found = issue(
        b'{"name": "n", "tasks": [{"title": "a", "adapter": "x", "retry": {"maxAttempt": 1}}]}',
        GraphPost,
    )
    assert found.path.endswith("retry.maxAttempt")
    assert "did you mean `maxAttempts`?" in found.message


@pytest.mark.parametrize("data", [b"", b"{", b"nothing", b"\xff", b'{"name": NaN}'])
def test_what_is_not_json_is_said_to_be_so(data: bytes) -> None:
    found = issue(data, RunPut)
    assert found.path == ""
    assert "JSON" in found.message or "JSON" in str(found)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", ""),
        ("title", "x" * (limits.TITLE_LENGTH_MAX + 1)),
        ("priority", limits.PRIORITY_MAX + 1),
        ("timeoutS", 0),
        ("timeoutS", limits.TIMEOUT_S_MAX + 1),
        ("dependencyFailurePolicy", "retry"),
        ("dependsOn", ["d"] * (limits.DEPENDENCIES_PER_TASK_MAX + 1)),
        ("requiredCapabilities", ["c"] * (limits.CAPABILITIES_MAX + 1)),
        ("retry", {"maxAttempts": 0}),
        ("retry", {"maxAttempts": limits.ATTEMPTS_MAX + 1}),
        ("retry", {"backoffS": -1}),
        ("verify", ["true"] * (limits.VERIFY_COMMANDS_MAX + 1)),
    ],
)
def test_limits_of_a_definition_are_those_of_core(field: str, value: object) -> None:
    good = {"title": "t", "adapter": "noop"}
    convert(good, TaskDefinition)
    with pytest.raises(BodyError) as refused:
        convert(good | {field: value}, TaskDefinition)
    assert refused.value.issues[0].path.startswith(field)


def test_a_message_of_a_newer_peer_is_understood() -> None:
    assert decode(b'{"type": "ack", "seq": 3, "later": {"x": 1}}', Ack) == Ack(seq=3)


def test_a_definition_survives_its_own_text_and_leaves_defaults_out() -> None:
    small = TaskDefinition(title="t", adapter="noop")
    assert encode(small) == b'{"title":"t","adapter":"noop"}'
    full = convert(
        {
            "title": "t", "adapter": "command", "taskKey": "k", "input": {"shell": "true"},
            "dependsOn": ["a"], "dependencyFailurePolicy": "wait", "retry": {"maxAttempts": 3},
            "declaredOutputs": {"out": {"kind": "json", "schema": {"type": "object"}}},
            "timeoutS": 1.5, "optional": True, "metadata": {"x": [1, None]},
        },
        TaskDefinition,
    )  # fmt: skip
    assert decode(encode(full), TaskDefinition) == full
