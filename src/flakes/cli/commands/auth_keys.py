"""`flakes auth keys` and `flakes auth sessions`: who else may act for the account, and ending that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flakes.cli.options import asks, page_options, remote_options
from flakes.cli.render.parts import Part, bold, dim

if TYPE_CHECKING:
    from datetime import datetime

    from flakes.cli.output import Output
    from flakes.client.api import Client


@click.command("create")
@click.argument("name")
@click.option(
    "--scope", type=click.Choice(["read", "write", "admin"]), default="write", show_default=True,
    help="read; also change things; or also deal in credentials and hosts.",
)  # fmt: skip
@click.option("--expires-days", type=click.IntRange(1, 3_650), help="When it ends by itself.")
@remote_options
@asks
async def create(
    client: Client, output: Output, name: str, scope: Any, expires_days: int | None
) -> None:
    """Make an API key and print it, this once."""
    made = await client.create_api_key(name, scope=scope, expires_in_days=expires_days)
    if output.as_json:
        output.data(made)
        return
    output.line(made.raw_key)
    end = f", until {made.key.expires_at:%Y-%m-%d}" if made.key.expires_at else ""
    output.talk(dim(f"key {made.key.key_id} ({made.key.scope}{end}): keep it, it is not shown again"))


@click.command("list")
@page_options
@remote_options
@asks
async def list_keys(client: Client, output: Output, limit: int | None, cursor: str | None) -> None:
    """List API keys, without their values."""
    page = await client.list_api_keys(limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    rows: list[list[Part]] = [
        [bold(key.key_id), key.name, key.scope, _day(key.created_at), _day(key.last_used_at), _day(key.expires_at)]
        for key in page.keys
    ]  # fmt: skip
    output.table(rows, ["key", "name", "scope", "made", "last used", "ends"])


@click.command("revoke")
@click.argument("key")
@remote_options
@asks
async def revoke(client: Client, output: Output, key: str) -> None:
    """Revoke an API key for good, and end the streams that use it."""
    revoked = await client.revoke_api_key(key)
    if output.as_json:
        output.data(revoked)
    else:
        output.line("revoked ", bold(revoked.key_id), f" {revoked.name}")


@click.command("list")
@page_options
@remote_options
@asks
async def list_sessions(client: Client, output: Output, limit: int | None, cursor: str | None) -> None:
    """List browsers and command lines that are signed in."""
    page = await client.list_sessions(limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    rows: list[list[Part]] = [
        [bold(one.session_id), one.kind, _day(one.created_at), _day(one.last_used_at), one.address or "",
         f"{one.client[:60]}{' (this one)' if one.current else ''}"]
        for one in page.sessions
    ]  # fmt: skip
    output.table(rows, ["session", "kind", "since", "last used", "address", "client"])


@click.command("revoke")
@click.argument("session")
@remote_options
@asks
async def end_session(client: Client, output: Output, session: str) -> None:
    """Sign a browser or a command line out, wherever it is."""
    ended = await client.end_session(session)
    if output.as_json:
        output.data(ended)
    else:
        output.line("signed out ", bold(ended.session_id))


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else ""
