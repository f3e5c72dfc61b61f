"""Options and habits that commands share."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flakes.cli.output import Output
from flakes.cli.target import Choice, choice, client

if TYPE_CHECKING:
    from flakes.client.api import Client

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON on stdout, and errors as JSON on stderr."
)


def remote_options(command: F) -> F:
    """`--server`, `--token` and `--json`, on every command that asks a server."""
    for option in (
        json_option,
        click.option("-t", "--token", metavar="TOKEN", help="The bearer token to use."),
        click.option("--server", metavar="URL", help="The control plane to use."),
    ):
        command = option(command)
    return command


def page_options(command: F) -> F:
    """`--limit` and `--cursor`, on lists."""
    for option in (
        click.option("--cursor", metavar="CURSOR", help="Go on after a page: its nextCursor."),
        click.option(
            "--limit", type=click.IntRange(1, 200), help="At most this many (default 50)."
        ),
    ):
        command = option(command)
    return command


def asks(function: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., int | None]:
    """Make an async function into a command's body.

    It is called as `function(client, output, **options)`, with a client for the server that the
    options name, and returns the exit code (None is 0).
    """

    @functools.wraps(function)
    def body(*, as_json: bool, server: str | None, token: str | None, **options: Any) -> int | None:
        chosen = choice(server, token)
        return asyncio.run(_with_client(function, chosen, Output(as_json), options))

    return body


async def _with_client(
    function: Callable[..., Coroutine[Any, Any, int | None]],
    chosen: Choice,
    output: Output,
    options: dict[str, Any],
) -> int | None:
    remote: Client = client(chosen)
    async with remote:
        return await function(remote, output, **options)


def key_of(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A callback that refuses what cannot be a key, with the nearest key that could."""
    from flakes.core import keys

    if value is None or keys.is_key(value):
        return value
    raise click.BadParameter(
        f"{value!r} is not a key (lower-case letters, digits and single hyphens, at most 64);"
        f" {keys.key_from(value)!r} would be"
    )
