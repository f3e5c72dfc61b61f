"""`flakes auth`: signing in, the credential that commands use, and API keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from flakes.cli import device_login, sign_ins, target
from flakes.cli.options import json_option, remote_options
from flakes.cli.output import Output
from flakes.cli.render.parts import Part, Span, bold, dim
from flakes.wire.errors import EXIT_DONE, EXIT_NOT_SIGNED_IN, ApiError

if TYPE_CHECKING:
    from flakes.wire.auth import Me

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
    output = Output(as_json)
    kept = asyncio.run(device_login.sign_in(found.server, output, open_browser=not no_open, timeout_s=timeout_ms / 1_000))
    if as_json:
        output.record(kept.record())
        return EXIT_DONE
    output.line(*kept.words())
    if not target.is_default(found.server):
        output.talk(dim(f"to use it without --server: `export FLAKES_SERVER={found.server}`, or a profile in {target.config_path()}"))
    return EXIT_DONE


@auth.command()
@server_option
@json_option
def logout(server: str | None, as_json: bool) -> int:
    """Revoke the stored sign-in on its server, and remove it."""
    output = Output(as_json)
    found = target.resolve(target.choice(server, None))
    stored = sign_ins.read(target.config_dir(), found.server)
    revoked = stored is not None and asyncio.run(device_login.revoke(stored))
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
