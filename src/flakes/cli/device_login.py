"""The device flow of this command line (RFC 8628): a code is shown, a browser approves it, the token is kept.

`flakes auth login` is this and nothing else; commands that need a person's credential begin it by themselves.
"""

from __future__ import annotations

import asyncio
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flakes.cli import sign_ins, target
from flakes.cli.output import Output
from flakes.cli.render.parts import Part, Span, bold, dim
from flakes.wire.errors import ApiError

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.auth import DeviceCode, DeviceToken, Me

SLOWER_S = 5.0
"""What RFC 8628 adds to the interval of a device that asks too often."""
PASSING = ("server_unreachable", "database_unavailable", "rate_limited")


@dataclass(frozen=True, slots=True)
class Kept:
    """A sign-in that was approved, and the file that holds its token now."""

    sign_in: sign_ins.SignIn
    me: Me
    path: Path

    def record(self) -> dict[str, Any]:
        """As JSON, without the token."""
        return {
            "stage": "authenticated", "server": self.sign_in.server, "credentialFile": str(self.path),
            "expiresAt": self.sign_in.expires_at, "me": self.me,
        }  # fmt: skip

    def words(self) -> tuple[Part, ...]:
        """As a line for people."""
        who = self.me.email or self.me.name
        return Span("signed in", "green"), " as ", bold(who), dim(f"  until {self.sign_in.expires_at:%Y-%m-%d}")


async def sign_in(
    server: str, output: Output, *, open_browser: bool, timeout_s: float, aside: bool = False
) -> Kept:
    """Show the code, wait for its approval, and keep the token in the place of an older one, which is revoked.

    `aside`: what is shown is not what the command was asked for, and goes to stderr. `timeout` when nobody
    approves in time, `access_denied` or `expired_token` as the server says.
    """
    from flakes.client.api import Client

    sign_ins.read(target.config_dir(), server)  # a file that would be refused is better refused now
    async with Client(server) as client:
        asked = await client.begin_device(f"flakes on {platform.node() or 'a machine'}")
        _show(output, server, asked, aside)
        if open_browser:
            from flakes.cli.browser import open_page

            open_page(asked.verification_uri_complete)
        token = await _approval(client, asked, timeout_s)
    return await _keep(server, token)


async def _keep(server: str, token: DeviceToken) -> Kept:
    replaced = sign_ins.read(target.config_dir(), server)
    now = datetime.now(UTC)
    made = sign_ins.SignIn(
        server=server, token=token.access_token, user_id=token.me.user_id, name=token.me.name,
        email=token.me.email, created_at=now, expires_at=now + timedelta(seconds=token.expires_in),
    )  # fmt: skip
    path = sign_ins.write(target.config_dir(), made)
    if replaced is not None:  # nobody holds its token any more
        await revoke(replaced)
    return Kept(made, token.me, path)


async def revoke(stored: sign_ins.SignIn) -> bool:
    """Whether the server takes the token no more."""
    from flakes.client.api import Client

    async with Client(stored.server, stored.token) as client:
        try:
            await client.sign_out()
        except ApiError as error:
            return error.code == "unauthorized"
    return True


async def accepted(server: str, token: str) -> bool:
    """Whether the server takes the token."""
    from flakes.client.api import Client

    async with Client(server, token) as client:
        try:
            await client.me()
        except ApiError as error:
            if error.code != "unauthorized":
                raise
            return False
    return True


def _show(output: Output, server: str, asked: DeviceCode, aside: bool) -> None:
    if output.as_json:
        output.record({
            "stage": "device_code", "server": server, "userCode": asked.user_code,
            "verificationUri": asked.verification_uri,
            "verificationUriComplete": asked.verification_uri_complete,
            "expiresIn": asked.expires_in, "interval": asked.interval,
        }, aside=aside)  # fmt: skip
        return
    say = output.talk if aside else output.line
    say("open ", bold(asked.verification_uri_complete))
    say("and approve the code ", bold(asked.user_code))


async def _approval(client: Client, asked: DeviceCode, timeout_s: float) -> DeviceToken:
    """Poll as the server allows until somebody has decided; `timeout` when nobody does."""
    deadline_s = time.monotonic() + min(timeout_s, asked.expires_in)
    interval_s = float(asked.interval)
    while True:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise ApiError("timeout", "nobody approved this command line in time", "run the command again, perhaps with a longer --timeout-ms")
        await asyncio.sleep(min(interval_s, left_s))
        try:
            return await client.poll_device(asked.device_code)
        except ApiError as error:
            if error.code == "slow_down":
                interval_s += SLOWER_S
            elif error.code != "authorization_pending" and error.code not in PASSING:
                raise
