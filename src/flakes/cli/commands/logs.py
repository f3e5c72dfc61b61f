"""`flakes logs`: what a task printed."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, remote_options
from flakes.cli.output import Output
from flakes.cli.render.parts import Part, Span, dim
from flakes.cli.render.text import clock
from flakes.wire.tasks import LogEntry

if TYPE_CHECKING:
    from flakes.client.api import Client

PATIENCE_S = 300.0
"""How long the server may be away before following is given up; the task goes on either way."""
PAGE = 1_000


@click.command()
@click.argument("task")
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended.")
@click.option("--after", metavar="CURSOR", help="Only lines after this cursor.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), help="At most this many lines a page (default 100)."
)
@click.option("--tail", type=click.IntRange(1, 1000), help="Only the last lines.")
@click.option(
    "--channel", type=click.Choice(["stdout", "stderr", "system"]), help="Only this channel."
)
@click.option("--times", is_flag=True, help="Put the time before every line.")
@remote_options
@asks
async def logs(
    client: Client,
    output: Output,
    task: str,
    follow: bool,
    after: str | None,
    limit: int | None,
    tail: int | None,
    channel: str | None,
    times: bool,
) -> None:
    """Show the log of a task, or follow it.

    TASK is a task id or RUN/TASKKEY. Without --after, --limit and --tail the whole log is shown.
    """
    if tail is not None and after is not None:
        raise click.UsageError("--tail and --after exclude each other")
    task_id = await client.task_id(task)
    if follow:
        stream = client.follow_logs(
            task_id, after=after, tail=tail, channel=channel, patience_s=PATIENCE_S,
            notice=lambda sentence: output.talk(dim(sentence or "connected again")),
        )  # fmt: skip
        async with aclosing(stream) as entries:
            async for entry in entries:
                _show(output, [entry], times)
        return
    if limit is not None or tail is not None or output.as_json:
        page = await client.logs(task_id, after=after, limit=limit, tail=tail, channel=channel)
        if output.as_json:
            output.data(page)
            return
        _show(output, page.logs, times)
        if page.next_cursor and limit is not None and len(page.logs) >= limit:
            output.talk(f"go on with --after {page.next_cursor}")
        return
    cursor = after
    while True:
        page = await client.logs(task_id, after=cursor, limit=PAGE, channel=channel)
        _show(output, page.logs, times)
        cursor = page.next_cursor or cursor
        if len(page.logs) < PAGE:
            return


def _show(output: Output, entries: list[LogEntry], times: bool) -> None:
    for entry in entries:
        if output.as_json:
            output.record(entry)
            continue
        parts: list[Part] = [Span(f"{clock(entry.at)} ", dim=True)] if times else []
        look = {"stderr": "yellow", "system": "blue"}.get(entry.channel)
        output.line(*parts, Span(entry.text.rstrip("\n"), look))
