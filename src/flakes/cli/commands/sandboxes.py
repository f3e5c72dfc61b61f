"""`flakes sandboxes`: where tasks run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, page_options, remote_options
from flakes.cli.output import Output, Span, dim
from flakes.cli.render.state import colour
from flakes.cli.render.text import ago

if TYPE_CHECKING:
    from flakes.client.api import Client


@click.group()
def sandboxes() -> None:
    """See where tasks run."""


@sandboxes.command("list")
@page_options
@remote_options
@asks
async def list_(client: Client, output: Output, limit: int | None, cursor: str | None) -> None:
    """List sandboxes, the newest first."""
    page = await client.list_sandboxes(limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    if not page.sandboxes:
        output.talk("there are no sandboxes; they come when there is work")
    output.table(
        [
            [Span(each.status, colour(each.status)), Span(each.liveness, colour(each.liveness)),
             each.name, dim(each.sandbox_id), f"{each.running}/{each.max_concurrency}",
             ",".join(each.adapters), ago(each.last_seen_at), dim(each.reason or "")]
            for each in page.sandboxes
        ],
        ["STATUS", "LINK", "NAME", "ID", "BUSY", "ADAPTERS", "SEEN", ""],
    )  # fmt: skip
    if page.next_cursor:
        output.talk(dim(f"more: --cursor {page.next_cursor}"))
