"""`flakes sandboxes`: where tasks run, and how that ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, page_options, remote_options
from flakes.cli.output import Output
from flakes.cli.render.parts import Span, dim
from flakes.cli.render.state import colour
from flakes.cli.render.text import ago, clock, count

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.hosts import Sandbox, SandboxDeleteAnswer, SandboxDrainAnswer


@click.group()
def sandboxes() -> None:
    """See where tasks run; drain, stop and delete."""


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
             ",".join(each.adapters), ago(each.last_seen_at), dim(_remark(each))]
            for each in page.sandboxes
        ],
        ["STATUS", "LINK", "NAME", "ID", "BUSY", "ADAPTERS", "SEEN", ""],
    )  # fmt: skip
    output.more(page.next_cursor)


reason_option = click.option("--reason", help="Why; shown with the sandbox.")


@sandboxes.command()
@click.argument("sandbox_id", metavar="SANDBOX")
@reason_option
@remote_options
@asks
async def drain(client: Client, output: Output, sandbox_id: str, reason: str | None) -> None:
    """Let a sandbox take nothing new, and end when what it runs has ended."""
    _show(output, await client.drain_sandbox(sandbox_id, reason))


@sandboxes.command()
@click.argument("sandbox_id", metavar="SANDBOX")
@reason_option
@remote_options
@asks
async def stop(client: Client, output: Output, sandbox_id: str, reason: str | None) -> None:
    """Let the host end a sandbox now; what it runs goes on elsewhere."""
    _show(output, await client.stop_sandbox(sandbox_id, reason))


@sandboxes.command()
@click.argument("sandbox_id", metavar="SANDBOX")
@remote_options
@asks
async def delete(client: Client, output: Output, sandbox_id: str) -> None:
    """Delete a sandbox that is over, at once or when its host has cleaned up."""
    _deleted(output, await client.delete_sandbox(sandbox_id))


@sandboxes.command()
@click.argument("sandbox_id", metavar="SANDBOX")
@click.option("--confirm", required=True, metavar="SANDBOX", help="The sandbox's id, once more.")
@reason_option
@remote_options
@asks
async def abandon(
    client: Client, output: Output, sandbox_id: str, confirm: str, reason: str | None
) -> None:
    """Give up a sandbox that nobody can clean up after."""
    _deleted(output, await client.abandon_sandbox(sandbox_id, confirm=confirm, reason=reason))


def _remark(sandbox: Sandbox) -> str:
    """Why it is as it is, and how cleaning up after it goes."""
    cleanup = sandbox.cleanup
    if cleanup is None:
        return sandbox.reason or ""
    words = {
        "host_offline": "Cleanup queued: its host is not connected",
        "waiting": f"Cleanup failed {count(cleanup.attempts, 'time')}: {cleanup.last_error}",
        "asked": "Cleanup queued",
    }
    again = f"; again {clock(cleanup.next_at)}" if cleanup.next_at else ""
    return words.get(cleanup.state, cleanup.state) + again


def _show(output: Output, answer: SandboxDrainAnswer) -> None:
    if output.as_json:
        output.data(answer)
        return
    each = answer.sandbox
    output.line(Span(each.status, colour(each.status)), "  ", each.name, dim(f"  {each.sandbox_id}"))
    if answer.cleared_assignments:
        output.talk(f"{count(answer.cleared_assignments, 'offer')} taken back")


def _deleted(output: Output, answer: SandboxDeleteAnswer) -> None:
    if output.as_json:
        output.data(answer)
        return
    output.line(Span(answer.status.replace("_", " "), "yellow"), "  ", answer.sandbox_id)
