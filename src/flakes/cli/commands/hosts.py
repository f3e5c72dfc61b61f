"""`flakes hosts`: the machines that do the work, as their owner sees them, and how they are let go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, page_options, remote_options
from flakes.cli.output import Output
from flakes.cli.render.parts import Part, Span, dim
from flakes.cli.render.state import colour
from flakes.cli.render.text import ago
from flakes.wire.errors import EXIT_USAGE

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.hosts import Host


@click.group()
def hosts() -> None:
    """See the machines that do the work, and let them go."""


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
    output.more(page.next_cursor)


dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would happen, and do nothing.")
reason_option = click.option("--reason", help="Why; shown with what ends because of it.")


@hosts.command()
@click.argument("host_id", metavar="HOST")
@reason_option
@dry_run_option
@remote_options
@asks
async def disable(
    client: Client, output: Output, host_id: str, reason: str | None, dry_run: bool
) -> None:
    """Give a host nothing new, and let its sandboxes end when their work has ended."""
    answer = await client.disable_host(host_id, reason, dry_run=dry_run)
    if output.as_json:
        output.data(answer)
        return
    host = answer.host
    did = "would be disabled" if dry_run else host.status
    output.line(Span(did, colour(host.status)), "  ", host.name, dim(f"  {host.host_id}"))
    for sandbox_id in answer.sandbox_ids:
        output.line("  ", dim("drains  " if answer.applied else "would drain  "), sandbox_id)


@hosts.command()
@click.argument("host_id", metavar="HOST")
@remote_options
@asks
async def enable(client: Client, output: Output, host_id: str) -> None:
    """Let a disabled host have work again."""
    _show(output, await client.enable_host(host_id))


@hosts.command()
@click.argument("host_id", metavar="HOST")
@dry_run_option
@remote_options
@asks
async def delete(client: Client, output: Output, host_id: str, dry_run: bool) -> int | None:
    """Delete a host that holds nothing: no usable credential, no lease, no instance."""
    answer = await client.delete_host(host_id, dry_run=dry_run)
    if output.as_json:
        output.data(answer)
    else:
        output.line(Span(answer.status.replace("_", " "), "red" if answer.blockers else "green"), "  ", host_id)
        for blocker in answer.blockers:
            output.line("  ", dim("blocked by  "), blocker)
    return EXIT_USAGE if answer.blockers else None


@hosts.command()
@click.argument("host_id", metavar="HOST")
@click.option("--confirm", required=True, metavar="HOST", help="The host's id, once more.")
@reason_option
@remote_options
@asks
async def abandon(
    client: Client, output: Output, host_id: str, confirm: str, reason: str | None
) -> None:
    """Give up a host that never returns: its work goes on elsewhere, its credentials are worthless."""
    answer = await client.abandon_host(host_id, confirm=confirm, reason=reason)
    if output.as_json:
        output.data(answer)
        return
    output.line(Span("abandoned", "yellow"), "  ", answer.host.name, dim(f"  {host_id}"))
    for sandbox_id in answer.sandbox_ids:
        output.line("  ", dim("gave up  "), sandbox_id)


@hosts.command()
@click.option(
    "--offline-days", type=click.FloatRange(0), default=7.0, show_default=True,
    help="Only those that were not connected for so long.",
)  # fmt: skip
@dry_run_option
@remote_options
@asks
async def prune(client: Client, output: Output, offline_days: float, dry_run: bool) -> None:
    """Delete hosts that were long not connected and hold nothing, with their credentials."""
    answer = await client.prune_hosts(dry_run=dry_run, offline_s=round(offline_days * 86_400))
    if output.as_json:
        output.data(answer)
        return
    if not answer.hosts and not answer.kept:
        output.talk("no host was away for so long")
    did = "would delete" if dry_run else "deleted"
    rows: list[list[Part]] = [
        [Span(did, "yellow"), each.name, dim(each.host_id), ago(each.last_seen_at), ""]
        for each in answer.hosts
    ]
    rows += [
        [dim("kept"), each.name, dim(each.host_id), ago(each.last_seen_at), dim(", ".join(each.blockers))]
        for each in answer.kept
    ]
    output.table(rows)


@hosts.command()
@click.argument("host_id", metavar="HOST")
@page_options
@remote_options
@asks
async def bindings(
    client: Client, output: Output, host_id: str, limit: int | None, cursor: str | None
) -> None:
    """List the projects that are bound to a host, and what it says of each."""
    page = await client.list_bindings(host_id, limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    if not page.bindings:
        output.talk("no project is bound to it; `flakes projects bind-host` does that")
    output.table(
        [
            [Span(each.status, colour(each.status)), each.project_key, ",".join(each.pool_keys),
             each.workspace_path or "-", dim(each.reason or "")]
            for each in page.bindings
        ],
        ["STATUS", "PROJECT", "POOLS", "DIRECTORY", ""],
    )  # fmt: skip
    output.more(page.next_cursor)


def _show(output: Output, host: Host) -> None:
    if output.as_json:
        output.data(host)
        return
    output.line(Span(host.status, colour(host.status)), "  ", host.name, dim(f"  {host.host_id}"))
