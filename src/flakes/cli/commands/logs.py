"""`flakes logs`: what a task printed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, remote_options
from flakes.cli.output import Output, Part, Span
from flakes.cli.render.text import clock
from flakes.wire.tasks import LogEntry

if TYPE_CHECKING:
    from flakes.client.api import Client

PERIOD_MIN_S = 0.2
PERIOD_MAX_S = 2.0
ENDINGS = ("task.succeeded", "task.failed", "task.cancelled")


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
    if not follow and (limit is not None or output.as_json):
        page = await client.logs(task_id, after=after, limit=limit, tail=tail, channel=channel)
        if output.as_json:
            output.data(page)
        else:
            _show(output, page.logs, times)
            if page.next_cursor and limit is not None and len(page.logs) >= limit:
                output.talk(f"go on with --after {page.next_cursor}")
        return
    page = await client.logs(
        task_id, after=after, limit=None if tail else 1000, tail=tail, channel=channel
    )
    _show(output, page.logs, times)
    cursor = page.next_cursor or after
    cursor = await _drain(client, output, task_id, cursor, channel, times) if not tail else cursor
    if follow:
        await _follow(client, output, task_id, cursor, channel, times)


async def _follow(
    client: Client,
    output: Output,
    task_id: str,
    cursor: str | None,
    channel: str | None,
    times: bool,
) -> None:
    """Lines are fetched as they come; the event log tells when there will be no more."""
    ended = asyncio.create_task(_ended(client, task_id))
    period_s = PERIOD_MIN_S
    try:
        while True:
            over = ended.done()
            before = cursor
            cursor = await _drain(client, output, task_id, cursor, channel, times)
            if over:
                ended.result()
                return
            period_s = PERIOD_MIN_S if cursor != before else min(PERIOD_MAX_S, period_s * 1.5)
            await asyncio.wait({ended}, timeout=period_s)
    finally:
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)


async def _ended(client: Client, task_id: str) -> None:
    async with aclosing(client.events(task_id=task_id, types=ENDINGS)) as events:
        async for _ in events:
            # Of a task that was tried again the log holds earlier endings too.
            if (await client.get_task(task_id)).status in ("SUCCEEDED", "FAILED", "CANCELLED"):
                return


async def _drain(
    client: Client,
    output: Output,
    task_id: str,
    cursor: str | None,
    channel: str | None,
    times: bool,
) -> str | None:
    """Show everything after `cursor` that is there; returns the new cursor."""
    while True:
        page = await client.logs(task_id, after=cursor, limit=1000, channel=channel)
        if not page.logs:
            return cursor
        _show(output, page.logs, times)
        cursor = page.next_cursor or page.logs[-1].cursor


def _show(output: Output, entries: list[LogEntry], times: bool) -> None:
    for entry in entries:
        if output.as_json:
            output.record(entry)
            continue
        parts: list[Part] = [Span(f"{clock(entry.at)} ", dim=True)] if times else []
        look = {"stderr": "yellow", "system": "blue"}.get(entry.channel)
        output.line(*parts, Span(entry.text.rstrip("\n"), look))
