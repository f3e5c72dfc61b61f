"""Secrets by their shape: gone from text and values, the rest untouched, and nothing changed by a second pass."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flakes.core.redaction import redact, redact_value

A40 = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7d"
SECRETS = [
    f"flakes_user_abcdefghij234567.{A40}_-x",
    f"flakes_sandbox_abcdefghij234567.{A40}",
    f"flakes_host_abcdefghij234567.{A40}",
    f"sk-{A40}",
    f"sk-proj-{A40}_{A40}",
    f"sk-ant-api03-{A40}",
    f"ghp_{A40[:36]}",
    f"github_pat_11ABCDEFG_{A40}",
    f"glpat-{A40[:20]}",
    "xoxb-123456789012-abcdefghijkl",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    f"AIza{A40[:35]}",
]
AROUND = ["{}", "token {} here", "'{}'", "({})", "a={}&b=1", "line\n{}\nline", "x:{};", '"{}",']


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", AROUND)
def test_a_token_goes_and_what_is_around_it_stays(secret: str, around: str) -> None:
    text = around.format(secret)
    left = redact(text)
    assert secret not in left
    assert secret[-12:] not in left
    assert "[redacted]" in left
    head, _, tail = around.partition("{}")
    assert left.startswith(head)
    assert left.endswith(tail)
    assert redact(left) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer [redacted]"),
        ("authorization: bearer abc.def-ghi", "authorization: bearer [redacted]"),
        ("curl -H 'Authorization: Basic dXNlcjpwYXNz' x", "curl -H 'Authorization: Basic [redacted]' x"),
        ('{"Authorization": "Bearer short"}', '{"Authorization": "Bearer [redacted]"}'),
        ("postgresql://me:hunter2@db/x", "postgresql://me:[redacted]@db/x"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "AWS_SECRET_ACCESS_KEY=[redacted]"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = [redacted]"),
        ("export GITHUB_TOKEN=abcdef; x", "export GITHUB_TOKEN=[redacted]; x"),
        ('{"DB_PASSWORD": "hunter2!"}', '{"DB_PASSWORD": "[redacted]"}'),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nafter",
            "-----BEGIN RSA PRIVATE KEY----- [redacted]\nafter",
        ),
    ],
)  # fmt: skip
def test_what_is_around_a_secret_says_so(text: str, left: str) -> None:
    assert redact(text) == left
    assert redact(left) == left


@pytest.mark.parametrize(
    "text",
    [
        "", "nothing here", "task_01kabc", "flakes run plan.md", "flakes_user_", "the bearer of this",
        "https://example.com/a:b@c", "desk-lamp and risk-averse", "taskKey: build", "tokens: 120 in all",
        "see http://127.0.0.1:8080/x", "a KEY is needed", "sk-short", "ghp_short",
        "sha256:0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9",
    ],
)  # fmt: skip
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


def test_values_are_redacted_at_every_depth() -> None:
    value = {
        "input": {"env": {"OPENAI_API_KEY": "anything", "PATH": "/bin", "N_TOKENS": 3}},
        "lines": [f"got sk-{A40}", 1, None, True, {"taskKey": "build"}],
        f"flakes_user_abcdefgh.{A40}": "x",
    }
    left = redact_value(value)
    assert left["input"]["env"] == {"OPENAI_API_KEY": "[redacted]", "PATH": "/bin", "N_TOKENS": 3}
    assert left["lines"] == ["got sk-[redacted]", 1, None, True, {"taskKey": "build"}]
    assert "flakes_user_[redacted]" in left
    assert A40 not in json.dumps(left)


@given(st.text(), st.sampled_from(SECRETS), st.text())
def test_twice_is_once(before: str, secret: str, after: str) -> None:
    text = f"{before} {secret} {after}"
    once = redact(text)
    assert secret not in once
    assert redact(once) == once


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_the_form_of_a_value_stays(value: object) -> None:
    left = redact_value(value)
    assert type(left) is type(value)
    assert redact_value(left) == left
