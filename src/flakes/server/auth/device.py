"""Signing a command line in from a browser: the device authorization grant of RFC 8628, in this API's JSON.

Whoever approves a device gives it the account. They are shown what asks and from where, and have to be
signed in before a code is even looked up.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

from flakes.server.auth import limits
from flakes.server.auth.limits import source
from flakes.server.auth.session import address_of, me_of
from flakes.server.plane import Plane
from flakes.server.routing import Call, Endpoint
from flakes.store import device_grants, sign_ins
from flakes.store.accounts import Identity
from flakes.store.database import Connection
from flakes.store.device_grants import Grant
from flakes.wire.auth import (
    DeviceCode,
    DeviceCodePost,
    DeviceDecision,
    DeviceGrant,
    DeviceToken,
    DeviceTokenPost,
)
from flakes.wire.errors import ApiError, not_found

CLIENT_LENGTH_MAX = 100

REFUSALS: dict[str, tuple[str, str]] = {
    "authorization_pending": ("nobody has approved this device yet", "ask again after the interval"),
    "slow_down": ("this device asks too often", "wait five seconds longer between two polls"),
    "expired_token": ("the device code is unknown, used or expired", "begin again"),
    "access_denied": ("the user denied this device", "begin again, if that was a mistake"),
}


async def begin(call: Call) -> DeviceCode:
    """Begin to sign a device in: a code to poll with, and one for the user to approve."""
    body: DeviceCodePost = call.body
    await limits.take(call.plane, ("device asked for from an address", source(call.request)))
    client = "".join(c for c in body.client_name if c.isprintable()).strip()[:CLIENT_LENGTH_MAX]
    async with call.plane.database.transaction() as conn:
        made = await device_grants.make(conn, client or "a command line", address_of(call.request))
    page = f"{_base(call)}/device"
    return DeviceCode(
        device_code=made.device_code, user_code=made.user_code, verification_uri=page,
        verification_uri_complete=f"{page}?code={quote(made.user_code)}",
        expires_in=int(device_grants.LASTS_S), interval=device_grants.POLL_S,
    )  # fmt: skip


async def token(call: Call) -> DeviceToken:
    """Take the token of a device that was approved; until then a refusal says how it stands."""
    body: DeviceTokenPost = call.body
    async with call.plane.database.transaction() as conn:
        polled = await device_grants.poll(conn, body.device_code)
        answer = None if isinstance(polled, str) else await _signed_in(conn, polled)
    if isinstance(polled, str):  # after the commit, which keeps when it was asked
        message, fix = REFUSALS[polled]
        raise ApiError(polled, message, fix)
    assert answer is not None
    call.plane.wrote()
    return answer


async def _signed_in(conn: Connection, grant: device_grants.Approved) -> DeviceToken:
    user_id = grant.user_id
    issued = await sign_ins.start(conn, user_id, "cli", client=grant.client, address=grant.address)
    name, email = await sign_ins.profile(conn, user_id)
    identity = Identity("user", user_id, user_id, name, issued.token_id, "cli")
    return DeviceToken(
        access_token=issued.raw, expires_in=int(sign_ins.CLI_LASTS_S),
        me=me_of(identity, name, email),
    )  # fmt: skip


async def read(call: Call) -> DeviceGrant:
    """Read what asks to be approved under a code."""
    return await look_up(call.plane, call.owner_id, call.path["userCode"])


async def decide(call: Call) -> DeviceGrant:
    """Approve or deny a device."""
    body: DeviceDecision = call.body
    return await settle(call.plane, call.owner_id, call.path["userCode"], body.decision)


async def look_up(plane: Plane, user_id: str, user_code: str) -> DeviceGrant:
    """The grant of a code, or `not_found`; wrong codes count."""
    guess = ("device looked up by an account", user_id)
    await limits.take(plane, guess)
    async with plane.database.connection() as conn:
        found = await device_grants.find(conn, user_code)
    if found is None:
        raise not_found("device")
    await limits.give_back(plane, guess)
    return _grant(user_code, found)


async def settle(
    plane: Plane, user_id: str, user_code: str, decision: Literal["approved", "denied"]
) -> DeviceGrant:
    """Decide a grant, once; `not_found` also for one that is decided."""
    guess = ("device looked up by an account", user_id)
    await limits.take(plane, guess)
    async with plane.database.transaction() as conn:
        found = await device_grants.decide(conn, user_code, user_id, decision)
    if found is None:
        raise not_found("device")
    await limits.give_back(plane, guess)
    return _grant(user_code, found)


def _grant(user_code: str, grant: Grant) -> DeviceGrant:
    status: Literal["pending", "approved", "denied"] = grant.status  # type: ignore[assignment]
    return DeviceGrant(
        user_code=user_code.upper(), client_name=grant.client, address=grant.address, status=status,
        created_at=grant.created_at, expires_at=grant.expires_at,
    )  # fmt: skip


def _base(call: Call) -> str:
    public = call.plane.config.listen.public_url
    return public.rstrip("/") if public else str(call.request.base_url).rstrip("/")


ENDPOINTS = [
    Endpoint("POST", "/v1/auth/device/code", begin, DeviceCode, DeviceCodePost, family=None, tag="auth",
             errors=("rate_limited", "forbidden", "invalid_request")),
    Endpoint("POST", "/v1/auth/device/token", token, DeviceToken, DeviceTokenPost, family=None, tag="auth",
             errors=(*REFUSALS, "forbidden", "invalid_request")),
    Endpoint("GET", "/v1/auth/device/{userCode}", read, DeviceGrant, scope="admin", tag="auth",
             errors=("rate_limited",)),
    Endpoint("POST", "/v1/auth/device/{userCode}", decide, DeviceGrant, DeviceDecision, scope="admin",
             tag="auth", errors=("rate_limited",)),
]  # fmt: skip
