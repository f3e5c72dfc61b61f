"""`flakes auth`: the credential that commands use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from flakes.cli import target
from flakes.cli.options import remote_options
from flakes.cli.output import Output, Part, Span, bold, dim
from flakes.wire.errors import EXIT_DONE, EXIT_NOT_SIGNED_IN, ApiError

if TYPE_CHECKING:
    from flakes.wire.auth import Me


@click.group()
def auth() -> None:
    """Show the credential in use."""


@auth.command()
@remote_options
def token(server: str | None, token: str | None, as_json: bool) -> int:
    """Print the bearer token in use, for scripts."""
    output = Output(as_json)
    found = target.resolve(target.choice(server, token))
    if found.token is None:
        raise ApiError(
            "unauthorized",
            f"there is no token for {found.server}",
            "give one with --token or FLAKES_TOKEN, or a credentialFile in the profile",
        )
    if as_json:
        output.data({"server": found.server, "token": found.token})
    else:
        output.line(found.token)
    return EXIT_DONE


@auth.command()
@remote_options
def status(server: str | None, token: str | None, as_json: bool) -> int:
    """Show the server, where the token is from, and whether the server accepts it."""
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
    if as_json:
        output.data({
            "server": found.server, "serverSource": found.source, "tokenSource": found.token_source,
            "authenticated": me is not None, "me": me,
        })  # fmt: skip
        return EXIT_DONE if me else EXIT_NOT_SIGNED_IN
    rows: list[list[Part]] = [
        [dim("server"), bold(found.server), dim(f"(from {found.source})")],
        [dim("token"), found.token_source],
    ]
    if me is not None:
        rows += [[dim("user"), me.name, dim(me.user_id)], [dim("version"), me.server_version]]
    output.table(rows)
    if me is None:
        output.line(Span("not signed in", "red"))
        return EXIT_NOT_SIGNED_IN
    output.line(Span("signed in", "green"))
    return EXIT_DONE


async def _ask(chosen: target.Choice) -> Me:
    async with target.client(chosen) as client:
        return await client.me()
