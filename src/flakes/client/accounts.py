"""The routes about the account that asks: who it is, where it is signed in, its keys, and the device flow.

Signing in with a password or a provider gives a browser its cookies, so it is not here: programs use a key,
command lines the device flow.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

from flakes.client.transport import Transport
from flakes.wire import auth


class AccountMethods:
    """A part of `flakes.client.Client`, which is where to call them."""

    _transport: Transport

    async def me(self) -> auth.Me:
        """Whom the token stands for."""
        return await self._transport.call("GET", "/v1/me", auth.Me)

    async def patch_me(self, *, name: str) -> auth.Me:
        """Change the account's name."""
        body = auth.MePatch(name=name)
        return await self._transport.call("PATCH", "/v1/me", auth.Me, body=body, idempotent=True)

    async def auth_options(self) -> auth.AuthOptions:
        """How people sign in to this server; needs no token."""
        return await self._transport.call("GET", "/v1/auth/options", auth.AuthOptions)

    async def make_browser_link(self) -> auth.BrowserLinkAnswer:
        """A code that signs one browser in as this account, once, within ten minutes."""
        path = "/v1/auth/browser-links"
        return await self._transport.call("POST", path, auth.BrowserLinkAnswer, keyed=True)

    async def sign_out(self) -> auth.SignedOut:
        """End the sign-in that this token is; `forbidden` for one that is none."""
        return await self._transport.call("POST", "/v1/auth/sign-out", auth.SignedOut)

    async def list_sessions(
        self, *, limit: int | None = None, cursor: str | None = None
    ) -> auth.Sessions:
        """Browsers and command lines that are signed in, newest first."""
        params = {"limit": limit, "cursor": cursor}
        return await self._transport.call("GET", "/v1/auth/sessions", auth.Sessions, params=params)

    async def end_session(self, session_id: str) -> auth.SignedOut:
        """Sign a browser or a command line out, and end its streams."""
        path = f"/v1/auth/sessions/{quote(session_id, safe='')}"
        return await self._transport.call("DELETE", path, auth.SignedOut)

    async def create_api_key(
        self, name: str, *, scope: auth.Scope = "write", expires_in_days: int | None = None
    ) -> auth.ApiKeyAnswer:
        """A new key; `raw_key` is shown this once."""
        body = auth.ApiKeyPost(name=name, scope=scope, expires_in_days=expires_in_days)
        return await self._transport.call("POST", "/v1/auth/keys", auth.ApiKeyAnswer, body=body, keyed=True)

    async def list_api_keys(
        self, *, limit: int | None = None, cursor: str | None = None
    ) -> auth.ApiKeys:
        """The account's keys, newest first, without their values."""
        params = {"limit": limit, "cursor": cursor}
        return await self._transport.call("GET", "/v1/auth/keys", auth.ApiKeys, params=params)

    async def revoke_api_key(self, key_id: str) -> auth.ApiKey:
        """Revoke a key for good, and end its streams."""
        path = f"/v1/auth/keys/{quote(key_id, safe='')}"
        return await self._transport.call("DELETE", path, auth.ApiKey)

    async def begin_device(self, client_name: str = "") -> auth.DeviceCode:
        """Begin to sign this device in; needs no token."""
        body = auth.DeviceCodePost(client_name=client_name)
        return await self._transport.call("POST", "/v1/auth/device/code", auth.DeviceCode, body=body)

    async def poll_device(self, device_code: str) -> auth.DeviceToken:
        """The token, once somebody has approved; until then `authorization_pending` or `slow_down`, and in
        the end `access_denied` or `expired_token`."""
        body = auth.DeviceTokenPost(device_code=device_code)
        return await self._transport.call("POST", "/v1/auth/device/token", auth.DeviceToken, body=body)

    async def get_device(self, user_code: str) -> auth.DeviceGrant:
        """What asks to be approved under this code."""
        return await self._transport.call("GET", _device(user_code), auth.DeviceGrant)

    async def decide_device(
        self, user_code: str, decision: Literal["approved", "denied"]
    ) -> auth.DeviceGrant:
        """Give a device this account, or refuse it."""
        body = auth.DeviceDecision(decision=decision)
        path = _device(user_code)
        return await self._transport.call("POST", path, auth.DeviceGrant, body=body, keyed=True)


def _device(user_code: str) -> str:
    return f"/v1/auth/device/{quote(user_code, safe='')}"
