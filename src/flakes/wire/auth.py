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


class AuthOptions(Frozen, frozen=True, kw_only=True):
    """Answer of `GET /v1/auth/options`: how people sign in to this server."""

    sign_up: bool
    """Whether anybody may make an account."""
    provider: str | None = None
    """The name of the OpenID Connect provider, if there is one; begin at `/v1/auth/oidc/start`."""


class SignUp(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/auth/sign-up`."""

    email: str
    password: str
    name: str = ""


class CodeSent(Frozen, frozen=True, kw_only=True):
    """What to give back together with the six digits of the mail. Equal whether a mail was sent or not."""

    verification: str
    expires_at: datetime


class Verify(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/auth/verify`: finishes a sign-up."""

    verification: str
    code: str


class SignIn(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/auth/sign-in`."""

    email: str
    password: str


class ForgotPassword(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/auth/forgot-password`."""

    email: str


class ResetPassword(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/auth/reset-password`."""

    verification: str
    code: str
    new_password: str


class ChangePassword(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/auth/change-password`."""

    current_password: str
    new_password: str


class PasswordChanged(Frozen, frozen=True, kw_only=True):
    """Answer of `POST /v1/auth/change-password`."""

    ended_sessions: int
    keys: list[ApiKey]
    """Those that go on working; revoke what nobody knows."""


class MePatch(Body, frozen=True, kw_only=True):
    """Body of `PATCH /v1/me`; what is absent stays."""

    name: str | None = None


class Session(Frozen, frozen=True, kw_only=True):
    """A browser or a command line that is signed in."""

    session_id: str
    kind: Literal["browser", "cli"]
    client: str
    """What it calls itself."""
    address: str | None
    created_at: datetime
    last_used_at: datetime | None
    """To a few minutes."""
    expires_at: datetime
    current: bool
    """Whether it is the one that asks."""


class Sessions(Frozen, frozen=True, kw_only=True):
    """A page of sessions, newest first."""

    sessions: list[Session]
    next_cursor: str | None = None


class ApiKeyPost(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/auth/keys`."""

    name: str
    scope: Scope = "write"
    expires_in_days: int | None = None
    """1 to 3650; without it the key lasts until it is revoked."""


class ApiKey(Frozen, frozen=True, kw_only=True):
    """An API key, without its value."""

    key_id: str
    name: str
    scope: Scope
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None


class ApiKeyAnswer(Frozen, frozen=True, kw_only=True):
    """A new key with its value, which is shown this once."""

    key: ApiKey
    raw_key: str


class ApiKeys(Frozen, frozen=True, kw_only=True):
    """A page of keys, newest first."""

    keys: list[ApiKey]
    next_cursor: str | None = None


class DeviceCodePost(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/auth/device/code`."""

    client_name: str = ""
    """What asks, as the user will be shown it."""


class DeviceCode(Frozen, frozen=True, kw_only=True):
    """The two codes of a device that wants to sign in (RFC 8628). Times are in seconds."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    interval: int
    """How long to wait between two polls."""


class DeviceTokenPost(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/auth/device/token`."""

    device_code: str


class DeviceToken(Frozen, frozen=True, kw_only=True):
    """A signed-in device's token, shown this once."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105
    expires_in: int
    me: Me


class DeviceGrant(Frozen, frozen=True, kw_only=True):
    """What a signed-in user sees of a device that wants to be one of theirs."""

    user_code: str
    client_name: str
    address: str | None
    status: Literal["pending", "approved", "denied"]
    created_at: datetime
    expires_at: datetime


class DeviceDecision(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/auth/device/:userCode`."""

    decision: Literal["approved", "denied"]
