"""Following a run from a terminal or a script, to its end.

One loop reads the events; on a terminal a second one fetches the last log line of the tasks on screen,
and the board is redrawn a few times a second, however many events arrive. Elsewhere each change is a
plain line. Either way the words go to stderr: stdout is for what comes out of the run.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flakes.cli.board import Board, Change
from flakes.cli.output import Output, is_terminal
from flakes.cli.render import state as states
from flakes.cli.render.parts import Part, Span, bold
from flakes.cli.render.text import clock, one_line
from flakes.wire.errors import ApiError
from flakes.wire.runs import Run
from flakes.wire.tasks import Task

if TYPE_CHECKING:
    from flakes.client.api import Client

PATIENCE_S = 300.0
"""How long the server may be away before following is given up; the run goes on either way."""
NOTE_PERIOD_S = 1.0
NOTED_TASKS_MAX = 8
REASON_PERIOD_S = 5.0


async def follow(
    client: Client, run: Run, tasks: list[Task], output: Output, timeout_s: float | None
) -> Run:
    """Show the run until it is complete, and return it. `timeout` leaves the run going on."""
    board = Board(run, tasks)
    try:
        async with asyncio.timeout(timeout_s):
            if is_terminal(sys.stderr) and not output.as_json:
                await _live(client, board)
            else:
                await _lines(client, board, output)
    except TimeoutError:
        raise ApiError(
            "timeout",
            f"run {run.run_key} did not end within {timeout_s:g} s; it goes on",
            f"follow it again with `flakes watch {run.run_key}`,"
            f" or stop it with `flakes runs cancel {run.run_key}`",
        ) from None
    return await client.get_run(run.run_id)


async def _lines(client: Client, board: Board, output: Output) -> None:
    def notice(sentence: str) -> None:
        output.talk(sentence or "connected again")

    width = min(40, max((len(row.key) for row in board.rows.values()), default=0))
    stream = client.follow_run(board.run.run_id, patience_s=PATIENCE_S, notice=notice)
    reasons = asyncio.create_task(_reasons(client, board, output, width))
    try:
        async with aclosing(stream) as events:
            async for event in events:
                change = board.apply(event)
                if change is not None:
                    output.talk(*line_of(change, width))
    finally:
        reasons.cancel()
        await asyncio.gather(reasons, return_exceptions=True)


async def _reasons(client: Client, board: Board, output: Output, width: int) -> None:
    """While nothing runs, say why, once for each reason."""
    said = ""
    while True:
        await asyncio.sleep(REASON_PERIOD_S)
        key, sentence = await _why_idle(client, board)
        if sentence and sentence != said:
            said = sentence
            output.talk(*line_of(Change(datetime.now(UTC), key, "waits", sentence), width))


async def _why_idle(client: Client, board: Board) -> tuple[str, str]:
    """The first ready task and why it does not run; empty while something runs."""
    if board.counts["RUNNING"] or not board.counts["QUEUED"]:
        return "", ""
    row = next(row for row in board.rows.values() if row.status == "QUEUED")
    try:
        task = await client.get_task(row.task_id, explain=True)
    except ApiError:
        return "", ""
    if task.explanation is None or row.status != "QUEUED":
        return "", ""
    row.note = one_line(task.explanation.sentence)
    return row.key, row.note


def line_of(change: Change, width: int) -> list[Part]:
    """`12:01:02 lint-core running`, the task's key padded to `width`."""
    word = change.word
    shade = states.colour(word.upper())
    parts: list[Part] = [
        Span(clock(change.at), dim=True),
        " ",
        bold("run".ljust(width)) if change.key is None else change.key.ljust(width),
        " ",
        Span(word, shade),
    ]
    if change.detail:
        parts += ["  ", Span(one_line(change.detail)[:300], dim=True)]
    return parts


async def _live(client: Client, board: Board) -> None:
    from rich.console import Console
    from rich.live import Live

    from flakes.cli.render.live import LiveBoard

    console = Console(stderr=True)
    picture = LiveBoard(board)
    # The picture is drawn anew at each refresh, so it shows the board of that moment; it goes away at
    # the end, when the summary says the same in a form that stays.
    with Live(
        picture, console=console, refresh_per_second=6, transient=True, vertical_overflow="crop",
        redirect_stdout=False, redirect_stderr=False,
    ):  # fmt: skip
        notes = asyncio.create_task(_notes(client, board, picture.shown))
        try:
            stream = client.follow_run(board.run.run_id, patience_s=PATIENCE_S, notice=picture.say)
            async with aclosing(stream) as events:
                async for event in events:
                    board.apply(event)
        finally:
            notes.cancel()
            await asyncio.gather(notes, return_exceptions=True)


async def _notes(client: Client, board: Board, shown: Callable[[], list[str]]) -> None:
    """Keep the last log line of the running tasks on the screen, or why nothing runs."""
    while True:
        await asyncio.sleep(NOTE_PERIOD_S)
        await _why_idle(client, board)
        for task_id in shown()[:NOTED_TASKS_MAX]:
            try:
                page = await client.logs(task_id, tail=1)
            except ApiError:
                # A decoration: the events tell when something is really wrong.
                break
            row = board.rows.get(task_id)
            if page.logs and row is not None and row.status == "RUNNING":
                row.note = one_line(page.logs[-1].text)[:300]
