"""`flakes transcript`: what the agents of a task said and did."""

from __future__ import annotations

import json
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from flakes.cli.commands.logs import PATIENCE_S
from flakes.cli.options import asks, remote_options
from flakes.cli.output import Output
from flakes.cli.render.parts import Span, bold, dim
from flakes.cli.render.text import one_line, shortened
from flakes.wire.transcripts import TranscriptEntry

if TYPE_CHECKING:
    from flakes.client.api import Client

PAGE = 500
DETAIL_LENGTH_MAX = 300


@click.command()
@click.argument("task")
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended.")
@click.option("--raw", is_flag=True, help="The agents' own records instead, as JSON lines.")
@click.option("--after", metavar="CURSOR", help="Only what came after this cursor.")
@remote_options
@asks
async def transcript(
    client: Client, output: Output, task: str, follow: bool, raw: bool, after: str | None
) -> None:
    """Show what the agents of a task said and did, in all its attempts.

    TASK is a task id or RUN/TASKKEY.
    """
    if raw and (follow or after):
        raise click.UsageError("--raw goes with neither --follow nor --after")
    task_id = await client.task_id(task)
    if raw:
        async with aclosing(client.raw_transcript(task_id)) as parts:
            async for part in parts:
                sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    if follow:
        stream = client.follow_transcript(
            task_id, after=after, patience_s=PATIENCE_S,
            notice=lambda sentence: output.talk(dim(sentence or "connected again")),
        )  # fmt: skip
        async with aclosing(stream) as entries:
            async for entry in entries:
                _show(output, entry)
        return
    while True:
        page = await client.transcript(task_id, after=after, limit=PAGE)
        for entry in page.entries:
            _show(output, entry)
        after = page.next_cursor or after
        if len(page.entries) < PAGE:
            return


def _show(output: Output, entry: TranscriptEntry) -> None:
    if output.as_json:
        output.record(entry)
        return
    data = entry.data
    match entry.kind:
        case "prompt" | "steer":
            output.line(Span(f"> {data.get('source', 'steer')}", "cyan"))
            output.line(str(data.get("text", "")).rstrip())
        case "text":
            output.line(bold("agent"))
            output.line(str(data.get("text", "")).rstrip())
        case "thinking":
            output.line(dim(f"thinking  {_short(data.get('text'))}"))
        case "tool":
            shade = "blue" if data.get("state") == "start" else "green" if data.get("ok") else "red"
            what = data.get("input") if data.get("state") == "start" else data.get("output")
            output.line(Span(f"{data.get('name')}  ", shade), dim(_short(what)))
        case "notice":
            output.line(Span("note  ", "yellow"), _short(data.get("text")))
        case _:
            told = {name: value for name, value in data.items() if value not in (None, "")}
            output.line(dim(f"{entry.kind}  {_short(told)}"))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shortened(one_line(text), DETAIL_LENGTH_MAX)
