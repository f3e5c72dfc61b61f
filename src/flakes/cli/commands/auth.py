"""`flakes auth`: signing in, the credential that commands use, and API keys."""

from __future__ import annotations

import asyncio
import platform
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from flakes.cli import sign_ins, target
from flakes.cli.options import json_option, remote_options
from flakes.cli.output import Output, Part, Span, bold, dim
from flakes.wire.errors import EXIT_DONE, EXIT_NOT_SIGNED_IN, ApiError

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.auth import DeviceCode, DeviceToken, Me

SLOWER_S = 5.0
"""What RFC 8628 adds to the interval of a device that asks too often."""
PASSING = ("server_unreachable", "database_unavailable", "rate_limited")

server_option = click.option("--server", metavar="URL", help="The control plane to use.")


@click.group()
def auth() -> None:
    """Sign in and out; show the credential in use; manage sessions and API keys."""


@auth.command()
@click.option("--no-open", is_flag=True, help="Print the address and the code, and open no browser.")
@click.option(
    "--timeout-ms", type=click.IntRange(1_000), default=300_000, show_default=True,
    help="How long to wait for the approval.",
)  # fmt: skip
@server_option
@json_option
def login(server: str | None, no_open: bool, timeout_ms: int, as_json: bool) -> int:
    """Sign this command line in: a browser approves it.

    With --json: one record when there is a code to approve, one when it is approved.
    """
    found = target.resolve(target.choice(server, None))
    if found.source == "session":
        raise ApiError("usage", "the local session needs no sign-in", "name a server with --server or FLAKES_SERVER")
    return asyncio.run(_login(found.server, Output(as_json), not no_open, timeout_ms / 1_000))


async def _login(server: str, output: Output, open_browser: bool, timeout_s: float) -> int:
    from flakes.client.api import Client

    sign_ins.read(target.config_dir(), server)  # a file that would be refused is better refused now
    async with Client(server) as client:
        asked = await client.begin_device(f"flakes on {platform.node() or 'a machine'}")
        _show(output, server, asked, open_browser)
        token = await _approval(client, asked, timeout_s)
    replaced = sign_ins.read(target.config_dir(), server)
    now = datetime.now(UTC)
    expires_at = now + timedelta(seconds=token.expires_in)
    path = sign_ins.write(target.config_dir(), sign_ins.SignIn(
        server=server, token=token.access_token, user_id=token.me.user_id, name=token.me.name,
        email=token.me.email, created_at=now, expires_at=expires_at,
    ))  # fmt: skip
    if replaced is not None:  # nobody holds its token any more
        await _revoke(replaced)
    if output.as_json:
        output.record({
            "stage": "authenticated", "server": server, "credentialFile": str(path),
            "expiresAt": expires_at, "me": token.me,
        })  # fmt: skip
        return EXIT_DONE
    output.line(Span("signed in", "green"), " as ", bold(token.me.email or token.me.name), dim(f"  until {expires_at:%Y-%m-%d}"))
    if not target.is_default(server):
        output.talk(dim(f'to use it without --server: `export FLAKES_SERVER={server}`, or a profile in {target.config_path()}'))
    return EXIT_DONE


def _show(output: Output, server: str, asked: DeviceCode, open_browser: bool) -> None:
    from flakes.cli.browser import open_page

    if output.as_json:
        output.record({
            "stage": "device_code", "server": server, "userCode": asked.user_code,
            "verificationUri": asked.verification_uri,
            "verificationUriComplete": asked.verification_uri_complete,
            "expiresIn": asked.expires_in, "interval": asked.interval,
        })  # fmt: skip
    else:
        output.line("open ", bold(asked.verification_uri_complete))
        output.line("and approve the code ", bold(asked.user_code))
    if open_browser:
        open_page(asked.verification_uri_complete)


async def _approval(client: Client, asked: DeviceCode, timeout_s: float) -> DeviceToken:
    """Poll as the server allows until somebody has decided; `timeout` when nobody does."""
    deadline_s = time.monotonic() + min(timeout_s, asked.expires_in)
    interval_s = float(asked.interval)
    while True:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise ApiError("timeout", "nobody approved this command line in time", "run `flakes auth login` again, perhaps with a longer --timeout-ms")
        await asyncio.sleep(min(interval_s, left_s))
        try:
            return await client.poll_device(asked.device_code)
        except ApiError as error:
            if error.code == "slow_down":
                interval_s += SLOWER_S
            elif error.code != "authorization_pending" and error.code not in PASSING:
                raise


@auth.command()
@server_option
@json_option
def logout(server: str | None, as_json: bool) -> int:
    """Revoke the stored sign-in on its server, and remove it."""
    output = Output(as_json)
    found = target.resolve(target.choice(server, None))
    stored = sign_ins.read(target.config_dir(), found.server)
    revoked = stored is not None and asyncio.run(_revoke(stored))
    if stored is not None:
        sign_ins.remove(target.config_dir(), found.server)
    if as_json:
        output.data({"server": found.server, "removed": stored is not None, "revoked": revoked})
    elif stored is None:
        output.line(f"no sign-in is stored for {found.server}")
    else:
        output.line("signed out of ", bold(found.server))
        if not revoked:
            output.talk("the server does not answer, so the sign-in is removed here but not revoked there;")
            output.talk(f"end it with `flakes auth sessions revoke`, or wait until {stored.expires_at:%Y-%m-%d}")
    return EXIT_DONE


async def _revoke(stored: sign_ins.SignIn) -> bool:
    """Whether the server takes the token no more."""
    from flakes.client.api import Client

    async with Client(stored.server, stored.token) as client:
        try:
            await client.sign_out()
        except ApiError as error:
            return error.code == "unauthorized"
    return True


@auth.command()
@remote_options
def token(server: str | None, token: str | None, as_json: bool) -> int:
    """Print the bearer token in use, for scripts."""
    output = Output(as_json)
    found = target.resolve(target.choice(server, token))
    if found.token is None:
        raise target.not_signed_in(found.server)
    if as_json:
        output.data({"server": found.server, "token": found.token})
    else:
        output.line(found.token)
    return EXIT_DONE


@auth.command()
@remote_options
def status(server: str | None, token: str | None, as_json: bool) -> int:
    """Show the server, where the token is from, and whether the server accepts it.

    Its status is `authenticated`, `expired` (or revoked), or `missing`.
    """
    output = Output(as_json)
    chosen = target.choice(server, token)
    found = target.resolve(chosen)
    me: Me | None = None
    if found.token is not None:
        try:
            me = asyncio.run(_ask(chosen))
        except ApiError as error:
            if error.code != "unauthorized":
                raise
    word = "authenticated" if me else "missing" if found.token is None else "expired"
    if as_json:
        output.data({
            "server": found.server, "serverSource": found.source, "tokenSource": found.token_source,
            "status": word, "authenticated": me is not None, "expiresAt": found.expires_at, "me": me,
        })  # fmt: skip
        return EXIT_DONE if me else EXIT_NOT_SIGNED_IN
    rows: list[list[Part]] = [
        [dim("server"), bold(found.server), dim(f"(from {found.source})")],
        [dim("token"), found.token_source],
    ]
    if found.expires_at is not None:
        rows.append([dim("until"), f"{found.expires_at:%Y-%m-%d %H:%M} UTC"])
    if me is not None:
        rows += [[dim("user"), me.email or me.name, dim(me.user_id)], [dim("version"), me.server_version]]
    output.table(rows)
    if me is None:
        output.line(Span("not signed in" if found.token is None else "the sign-in has expired or was revoked", "red"))
        output.talk(dim("sign in with `flakes auth login`"))
        return EXIT_NOT_SIGNED_IN
    output.line(Span("signed in", "green"))
    return EXIT_DONE


async def _ask(chosen: target.Choice) -> Me:
    async with target.client(chosen) as client:
        return await client.me()


@auth.group()
def keys() -> None:
    """API keys: named tokens for programs, with a scope."""


@auth.group()
def sessions() -> None:
    """Where the account is signed in."""


def _add_commands() -> None:
    from flakes.cli.commands import auth_keys

    for command in (auth_keys.create, auth_keys.list_keys, auth_keys.revoke):
        keys.add_command(command)
    for command in (auth_keys.list_sessions, auth_keys.end_session):
        sessions.add_command(command)


_add_commands()
