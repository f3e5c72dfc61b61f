"""Aligned columns by the width that a terminal gives to each character."""

from __future__ import annotations

from dataclasses import replace

from flakes.cli.render.parts import Part, Span
from flakes.cli.render.text import one_line

GAP = "  "


def aligned(rows: list[list[Part]], header: list[str] | None = None) -> list[list[Part]]:
    """The rows as lines of parts, every column as wide as its widest cell."""
    from rich.cells import cell_len

    table = [[_span(cell) for cell in row] for row in rows]
    if header is not None:
        table.insert(0, [Span(title, dim=True) for title in header])
    columns = max((len(row) for row in table), default=0)
    widths = [
        max((cell_len(row[column].text) for row in table if column < len(row)), default=0)
        for column in range(columns)
    ]
    lines: list[list[Part]] = []
    for row in table:
        line: list[Part] = []
        for column, cell in enumerate(row):
            line.append(cell)
            if column + 1 < len(row):
                line.append(" " * (widths[column] - cell_len(cell.text)) + GAP)
        # Nothing is shown after the last cell with something in it.
        while line and not (line[-1] if isinstance(line[-1], str) else line[-1].text).strip():
            line.pop()
        lines.append(line)
    return lines


def _span(cell: Part) -> Span:
    # Widths count what is shown, and a line end inside a cell would tear the table.
    span = cell if isinstance(cell, Span) else Span(cell)
    return replace(span, text=one_line(span.text))
