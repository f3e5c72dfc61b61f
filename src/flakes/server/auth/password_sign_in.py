"""Signing up and in with an e-mail address and a password, and a new password for a forgotten one.

Whether an address has an account shows in no answer and in no answer's time: the same work is done either
way, and mail goes out in the background. An account is made when its address is proved, not before, so
nobody can hold somebody else's address.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from starlette.responses import Response

from flakes.core import limits as core_limits
from flakes.server.auth import limits, passwords
from flakes.server.auth.limits import source
from flakes.server.auth.mail import address_of
from flakes.server.auth.session import Started, revoke, start, welcome
from flakes.server.routing import Answer, Call, Endpoint
from flakes.store import api_keys, codes, sign_ins
from flakes.store import passwords as accounts
from flakes.wire.auth import (
    AuthOptions,
    CodeSent,
    ForgotPassword,
    Me,
    ResetPassword,
    SignIn,
    SignUp,
    Verify,
)
from flakes.wire.errors import ApiError

CODE_LASTS_S = 900.0


async def options(call: Call) -> AuthOptions:
    """How people sign in to this server."""
    config = call.plane.config
    provider = config.oidc.name if config.oidc is not None else None
    return AuthOptions(sign_up=config.auth.is_open, provider=provider)


async def sign_up(call: Call) -> Answer:
    """Begin an account: six digits go to the address by mail."""
    body: SignUp = call.body
    if not call.plane.config.auth.is_open:
        raise ApiError("sign_up_closed", "this server makes no new accounts", "ask whoever runs it")
    email = address_of(body.email)
    passwords.check(body.password, email)
    name = _name(body.name) if body.name.strip() else email.partition("@")[0][:core_limits.NAME_LENGTH_MAX]
    await limits.take(call.plane, *_mail_tries(call, email))
    password_hash = await call.plane.hashing.hashed(body.password)
    async with call.plane.database.transaction() as conn:
        known = await accounts.find(conn, email)
        data = {} if known else {"name": name, "passwordHash": password_hash}
        made = await codes.make(conn, "sign_up", lasts_s=CODE_LASTS_S, email=email, data=data, digits=True)
    if known:
        text = "Somebody, perhaps you, tried to make an account with this address. There is one already: sign in, or ask for a new password.\n"
        call.plane.mailer.send(email, "You have an account already", text)
    else:
        call.plane.mailer.send(email, f"{made.digits} is your code", _mail("finishes your account", made.digits))
    return _sent(made.handle, made.expires_at)


async def verify(call: Call) -> Response:
    """Finish an account with the digits of the mail, and sign this browser in."""
    body: Verify = call.body
    found = await _attempt(call, "sign_up", body.verification, body.code)
    if found is None or found.email is None or "passwordHash" not in found.data:
        raise wrong_code()
    async with call.plane.database.transaction() as conn:
        user_id = None
        if await codes.use(conn, found.code_id):
            data = found.data
            user_id = await accounts.create(conn, data["name"], found.email, data["passwordHash"])
        if user_id is None:
            raise wrong_code()
        started = await start(call, conn, user_id)
    return welcome(call, started)


async def sign_in(call: Call) -> Response:
    """Sign this browser in with a password."""
    body: SignIn = call.body
    return welcome(call, await by_password(call, body.email, body.password))


async def by_password(call: Call, typed: str, password: str) -> Started:
    """A session for whoever knows the password; `unauthorized` for everybody else alike."""
    plane, email = call.plane, address_of(typed)
    tries = _password_tries(call, email)
    await limits.take(plane, *tries)
    async with plane.database.connection() as conn:
        account = await accounts.find(conn, email)
    stored = account.password_hash if account else None
    if not await plane.hashing.matches(stored, password) or account is None:
        raise ApiError("unauthorized", "the e-mail address or the password is wrong", "try again, or ask for a new password")
    await limits.give_back(plane, *tries)
    fresh = await plane.hashing.hashed(password) if passwords.is_outdated(stored or "") else None
    async with plane.database.transaction() as conn:
        if fresh is not None:
            await accounts.set_hash(conn, account.user_id, fresh, changed=False)
        return await start(call, conn, account.user_id)


async def forgot_password(call: Call) -> Answer:
    """Ask for a new password: six digits go to the address by mail, if it has an account."""
    body: ForgotPassword = call.body
    email = address_of(body.email)
    await limits.take(call.plane, *_mail_tries(call, email))
    async with call.plane.database.transaction() as conn:
        account = await accounts.find(conn, email)
        made = await codes.make(
            conn, "reset_password", lasts_s=CODE_LASTS_S, email=email, digits=True,
            user_id=account.user_id if account else None,
        )  # fmt: skip
    if account:
        text = _mail("lets you choose a new password, which signs out everywhere and revokes your API keys", made.digits)
        call.plane.mailer.send(email, f"{made.digits} is your code", text)
    return _sent(made.handle, made.expires_at)


async def reset_password(call: Call) -> Response:
    """Choose a new password with the digits of the mail. Ends every session, revokes every API key, and signs
    this browser in."""
    body: ResetPassword = call.body
    passwords.check(body.new_password, "", "newPassword")
    found = await _attempt(call, "reset_password", body.verification, body.code)
    if found is None or found.user_id is None:
        raise wrong_code()
    password_hash = await call.plane.hashing.hashed(body.new_password)
    async with call.plane.database.transaction() as conn:
        if not await codes.use(conn, found.code_id):
            raise wrong_code()
        await codes.end_of_user(conn, found.user_id, "reset_password")
        await accounts.set_hash(conn, found.user_id, password_hash)
        ended = await sign_ins.end_others(conn, found.user_id, None)
        # Whoever gets an account back this way does not know who had it, and what they made for later.
        ended += await api_keys.revoke_all(conn, found.user_id)
        started = await start(call, conn, found.user_id)
    await revoke(call, ended)
    return welcome(call, started)


async def _attempt(call: Call, purpose: codes.Purpose, handle: str, digits: str) -> codes.Found | None:
    address = ("code from an address", source(call.request))
    await limits.take(call.plane, address)
    typed = "".join(c for c in digits if c.isdigit())
    async with call.plane.outside.connection() as conn:
        found = await codes.attempt(conn, purpose, handle, typed)
    if found is not None:
        await limits.give_back(call.plane, address)
    return found


def _mail_tries(call: Call, email: str) -> tuple[limits.Try, ...]:
    return ("mail to an address", email), ("mail asked for from an address", source(call.request))


def _password_tries(call: Call, email: str) -> tuple[limits.Try, ...]:
    address = source(call.request)
    return (
        ("password from an address", address),
        ("password of an account from an address", f"{email} {address}"),
        ("password of an account", email),
    )


def _name(text: str) -> str:
    name = text.strip()
    if 1 <= len(name) <= core_limits.NAME_LENGTH_MAX and name.isprintable():
        return name
    raise ApiError("invalid_request", f"name must have 1 to {core_limits.NAME_LENGTH_MAX} printable characters", "give a shorter one", issues=[{"path": "name", "message": "not a name"}])


def _sent(handle: str, expires_at: datetime) -> Answer:
    return Answer(CodeSent(verification=handle, expires_at=expires_at), 202)


def _mail(purpose: str, digits: str) -> str:
    return f"{digits}\n\nThis code {purpose}. It works for {CODE_LASTS_S / 60:.0f} minutes, where you asked for it.\nIf you did not ask, do nothing.\n"


def wrong_code() -> ApiError:
    """The same for a wrong, a used and an expired code, and for one that was tried too often."""
    return ApiError("code_invalid", "the code is wrong, used, expired, or was tried too often", "check the newest mail, or ask for another code")


def _public(path: str, handler: Any, answer: Any, body: Any, *errors: str, status: int = 200) -> Endpoint:
    return Endpoint(
        "POST", path, handler, answer, body, status=status, family=None, tag="auth",
        errors=("rate_limited", "forbidden", "invalid_request", *errors),
    )  # fmt: skip


ENDPOINTS = [
    Endpoint("GET", "/v1/auth/options", options, AuthOptions, family=None, tag="auth"),
    _public("/v1/auth/sign-up", sign_up, CodeSent, SignUp, "sign_up_closed", status=202),
    _public("/v1/auth/verify", verify, Me, Verify, "code_invalid"),
    _public("/v1/auth/sign-in", sign_in, Me, SignIn, "unauthorized"),
    _public("/v1/auth/forgot-password", forgot_password, CodeSent, ForgotPassword, status=202),
    _public("/v1/auth/reset-password", reset_password, Me, ResetPassword, "code_invalid"),
]
