"""The routes about the account that asks: who it is, and how it signs in and out."""

from __future__ import annotations

from flakes.client.transport import Transport
from flakes.wire import auth


class AccountMethods:
    """A part of `flakes.client.Client`, which is where to call them."""

    _transport: Transport

    async def me(self) -> auth.Me:
        """Whom the token stands for."""
        return await self._transport.call("GET", "/v1/me", auth.Me)

    async def make_browser_link(self) -> auth.BrowserLinkAnswer:
        """A code that signs one browser in as this account, once, within ten minutes."""
        path = "/v1/auth/browser-links"
        return await self._transport.call("POST", path, auth.BrowserLinkAnswer, keyed=True)

    async def sign_out(self) -> auth.SignedOut:
        """End the sign-in that this token is; `forbidden` for one that is none."""
        return await self._transport.call("POST", "/v1/auth/sign-out", auth.SignedOut)
