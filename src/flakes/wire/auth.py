"""Accounts, sign-in, sessions, API keys and the device flow, as they cross the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from flakes.wire.codec import Body, Frozen

Scope = Literal["read", "write", "admin"]
"""What a credential may do: read, also change things, or also deal in credentials. Each includes the one before."""

SESSION_COOKIE = "flakes_session"
CSRF_COOKIE = "flakes_csrf"
CSRF_HEADER = "x-flakes-csrf"
"""What a mutation that is authenticated by the cookie repeats of the readable cookie."""


class Me(Frozen, frozen=True, kw_only=True):
    """Whom the credential stands for, and what kind it is."""

    user_id: str
    name: str
    email: str | None = None
    token_family: str
    session_id: str = ""
    """Of the credential in use; what `/v1/auth/sessions` or `/v1/auth/keys` calls it."""
    session_kind: str = "token"
    """`token` (a local session's owner), `browser`, `cli` or `key`."""
    scope: Scope = "admin"
    server_version: str


class BrowserLinkAnswer(Frozen, frozen=True, kw_only=True):
    """A code that signs one browser in, once."""

    code: str
    expires_at: datetime


class BrowserLinkPost(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/auth/browser-link`: the code of a one-time link."""

    code: str


class SignedOut(Frozen, frozen=True, kw_only=True):
    """Answer of `POST /v1/auth/sign-out`."""

    session_id: str
    signed_out: bool = True
