"""The live picture of a run: what moves on top, what is over as counts when there is no room for it.

Drawn from a `Board` at each refresh and sized to the terminal of that moment, so it neither scrolls nor
wraps: every row is one line, cut where the terminal ends.
"""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from flakes.cli.board import Board, Row
from flakes.cli.render import state as states
from flakes.cli.render.text import clean, duration, one_line

_RANK = {
    "RUNNING": 0, "WAITING": 1, "FAILED": 2, "QUEUED": 3, "CANCELLED": 4, "BLOCKED": 5,
    "SUCCEEDED": 6, "SAVED": 7,
}  # fmt: skip
KEY_WIDTH_MAX = 32
TITLE_FROM_WIDTH = 57
NOTE_FROM_WIDTH = 76
QUESTIONS_MAX = 2
MARGIN = 3
"""Columns left free at the right: a terminal echoes `^C` there, and must not wrap because of it."""


class LiveBoard:
    """A rich renderable. `say` sets the line for trouble with the connection, empty for none."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._notice = ""
        self._shown: list[str] = []

    def say(self, sentence: str) -> None:
        self._notice = clean(sentence)

    def shown(self) -> list[str]:
        """Ids of the running tasks that were in the last picture."""
        return self._shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        board = self._board
        height = max(4, console.size.height - 2)
        questions = list(board.questions.values())[:QUESTIONS_MAX]
        rows, hidden = chosen(list(board.rows.values()), height - 3 - len(questions))
        self._shown = [row.task_id for row in rows if row.status == "RUNNING"]
        now = datetime.now(UTC)
        width = max(1, console.size.width - MARGIN)
        lines: list[RenderableType] = [self._table(rows, width, now), self._footer(hidden, now)]
        # Whole, also where it is longer than a line: the end of it is what to type.
        lines[1:1] = [Text(clean(question), style="magenta") for question in questions]
        if self._notice:
            lines.append(Text(self._notice, style="yellow", no_wrap=True, overflow="ellipsis"))
        yield Constrain(Group(*lines), width)

    def _table(self, rows: list[Row], width: int, now: datetime) -> Table:
        table = Table(
            box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0),
            expand=width >= TITLE_FROM_WIDTH,
        )  # fmt: skip
        table.add_column(width=1)
        longest = max((len(row.key) for row in rows), default=0)
        key_width = min(longest, KEY_WIDTH_MAX if width >= TITLE_FROM_WIDTH else max(8, width - 14))
        table.add_column(no_wrap=True, overflow="ellipsis", width=key_width)
        if width >= TITLE_FROM_WIDTH:
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
        table.add_column(no_wrap=True, justify="right", width=7)
        if width >= NOTE_FROM_WIDTH:
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
        for row in rows:
            colour = states.colour(row.status) or ""
            cells = [Text(states.glyph(row.status), style=colour), Text(row.key)]
            if width >= TITLE_FROM_WIDTH:
                title = row.title if row.attempt == 1 else f"{row.title} (attempt {row.attempt})"
                cells.append(Text(title, style="dim" if row.is_over else ""))
            cells.append(Text(_elapsed(row, now), style="dim" if row.is_over else colour))
            if width >= NOTE_FROM_WIDTH:
                style = "red" if row.status == "FAILED" else "dim"
                cells.append(Text(one_line(row.note) or _waiting(row), style=style))
            table.add_row(*cells)
        return table

    def _footer(self, hidden: int, now: datetime) -> Text:
        board = self._board
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{states.glyph(board.state)} {board.run.run_key}", style="bold")
        line.append(f"  {duration((now - board.run.created_at).total_seconds())}  ", style="dim")
        for part in states.counts(dict(board.counts)):
            if isinstance(part, str):
                line.append(part)
            else:
                line.append(part.text, style=part.colour or "")
        if hidden:
            line.append(f"  ({hidden:,} not shown)", style="dim")
        return line


def chosen(rows: list[Row], room: int) -> tuple[list[Row], int]:
    """The rows to show, in their own order, and how many are left out.

    All of them when there is room; else those that move or went wrong come first, and of the finished
    ones the latest.
    """
    room = max(1, room)
    if len(rows) <= room:
        return rows, 0
    order = {id(row): index for index, row in enumerate(rows)}

    def rank(row: Row) -> tuple[int, float]:
        ended = row.finished_at.timestamp() if row.finished_at is not None else 0.0
        return _RANK.get(row.status, 9), -ended if row.is_over else float(order[id(row)])

    kept = sorted(rows, key=rank)[:room]
    return sorted(kept, key=lambda row: order[id(row)]), len(rows) - len(kept)


def _elapsed(row: Row, now: datetime) -> str:
    if row.started_at is None or row.status in ("QUEUED", "BLOCKED", "SAVED"):
        return ""
    seconds = max(0.0, ((row.finished_at or now) - row.started_at).total_seconds())
    # One unit for short times: a column that changes its mind about milliseconds is hard to read.
    return f"{seconds:.1f}s" if seconds < 1 else duration(seconds)


def _waiting(row: Row) -> str:
    if row.status == "BLOCKED" and row.depends_on:
        return (
            "after " + ", ".join(row.depends_on[:4]) + (" ..." if len(row.depends_on) > 4 else "")
        )
    return ""
