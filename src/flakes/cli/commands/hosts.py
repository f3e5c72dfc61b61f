"""`flakes hosts`: the machines that do the work, as their owner sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, page_options, remote_options
from flakes.cli.output import Output, Part, Span, dim
from flakes.cli.render.state import colour
from flakes.cli.render.text import ago

if TYPE_CHECKING:
    from flakes.client.api import Client


@click.group()
def hosts() -> None:
    """See the machines that do the work."""


@hosts.command("list")
@page_options
@remote_options
@asks
async def list_(client: Client, output: Output, limit: int | None, cursor: str | None) -> None:
    """List hosts, with the pools they offer."""
    page = await client.list_hosts(limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    if not page.hosts:
        output.talk("there are no hosts; `flakes up` makes this machine one")
    rows: list[list[Part]] = []
    for host in page.hosts:
        pools = (await client.host_pools(host.host_id)).host_pools
        offered = ", ".join(
            f"{pool.pool_key} ({pool.adapter} x {pool.max_instances * pool.max_concurrency})"
            for pool in pools
        )
        rows.append([
            Span(host.status, colour(host.status)), host.name, dim(host.host_id),
            f"{host.platform or '-'}/{host.arch or '-'}", ago(host.last_seen_at), offered or "-",
        ])  # fmt: skip
    output.table(rows, ["STATUS", "NAME", "ID", "PLATFORM", "SEEN", "POOLS"])
    if page.next_cursor:
        output.talk(dim(f"more: --cursor {page.next_cursor}"))
