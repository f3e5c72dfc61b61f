"""Error codes: one table, one body, the same refusal on both sides."""

from __future__ import annotations

import pytest

from flakes.wire.codec import encode
from flakes.wire.errors import (
    CODES,
    EXIT_INTERNAL,
    EXIT_NOT_SIGNED_IN,
    EXIT_USAGE,
    ApiError,
    from_body,
    not_found,
)

HTTP = sorted(code for code, meaning in CODES.items() if meaning.status)


@pytest.mark.parametrize("code", HTTP)
def test_a_refusal_is_the_same_on_both_sides(code: str) -> None:
    import msgspec

    sent = ApiError(code, "what happened", "what to do", taskKeys=["a"])
    got = from_body(sent.status, msgspec.json.decode(encode(sent.body())))
    assert (got.code, got.message, got.fix, got.details) == (
        code,
        "what happened",
        "what to do",
        {"taskKeys": ["a"]},
    )
    assert (got.status, got.exit_code) == (sent.status, sent.exit_code)


def test_the_body_says_error_message_and_fix_first() -> None:
    body = ApiError("graph_invalid", "m", "f", cycle=["a", "a"]).body()
    assert list(body) == ["error", "message", "fix", "cycle"]
    assert "fix" not in ApiError("graph_invalid", "m").body()


SIGN_INS = {"code_invalid", "authorization_pending", "slow_down", "expired_token", "access_denied"}
"""Refused sign-ins: the request was well used, and whoever sent it is not signed in."""


def test_statuses_and_exit_codes_fit_each_other() -> None:
    for code, meaning in CODES.items():
        assert meaning.status == 0 or 400 <= meaning.status < 600, code
        assert meaning.meaning.endswith("."), code
        if meaning.status == 401 or code in SIGN_INS:
            assert meaning.exit == EXIT_NOT_SIGNED_IN
        elif meaning.status >= 500 or meaning.status == 429 or meaning.retryable:
            assert meaning.exit == EXIT_INTERNAL, code
        elif meaning.status:
            # What the same request may find gone in a moment is nobody's misuse.
            assert meaning.exit == (EXIT_INTERNAL if meaning.retryable else EXIT_USAGE), code
        if meaning.status in (429, 503):
            assert meaning.retryable, code


@pytest.mark.parametrize("body", [None, "oops", [], {}, {"error": "made_up"}, {"error": None}])
def test_a_foreign_body_is_a_protocol_error(body: object) -> None:
    assert from_body(502, body).code == "protocol_error"
    assert from_body(502, body).details == {"status": 502}


def test_an_unknown_code_cannot_be_raised() -> None:
    with pytest.raises(AssertionError):
        ApiError("made_up", "m")


def test_what_is_missing_and_what_is_somebody_elses_look_the_same() -> None:
    assert not_found("run").body() == not_found("run").body()
    assert not_found("run").status == 404
