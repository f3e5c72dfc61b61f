"""Where a command's words go: data to stdout, talk to stderr, and nothing unclean to either.

Lines are made of parts. Every part, plain or styled, is cleaned of terminal control characters here and
nowhere else, because much of what is shown was written by agents, commands and other machines. With
`--json` stdout holds JSON and nothing else.
"""

from __future__ import annotations

import os
import sys
from typing import IO, Any

import click

from flakes.cli.render.parts import Part, Span, bold, dim
from flakes.cli.render.text import clean
from flakes.wire.errors import ApiError


class Output:
    """The two streams of a command. `as_json` says which of them a reader parses."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    def line(self, *parts: Part) -> None:
        """One line (or more, when a part holds line ends) of human data on stdout."""
        _write(sys.stdout, parts)

    def talk(self, *parts: Part) -> None:
        """One line about what is going on, on stderr."""
        _write(sys.stderr, parts)

    def data(self, value: object) -> None:
        """One JSON document on stdout, indented."""
        import msgspec

        from flakes.wire import codec

        sys.stdout.write(msgspec.json.format(codec.encode(value)).decode() + "\n")

    def record(self, value: object, aside: bool = False) -> None:
        """One JSON document on one line on stdout, for streams of them; `aside`: on stderr."""
        from flakes.wire import codec

        stream = sys.stderr if aside else sys.stdout
        stream.write(codec.encode(value).decode() + "\n")
        stream.flush()

    def table(self, rows: list[list[Part]], header: list[str] | None = None) -> None:
        """Aligned columns; the last one is never padded."""
        from flakes.cli.render.table import aligned

        for row in aligned(rows, header):
            self.line(*row)

    def more(self, cursor: str | None) -> None:
        """How to get the next page, if there is one."""
        if cursor:
            self.talk(dim(f"more: --cursor {cursor}"))

    def error(self, error: ApiError) -> None:
        """A refusal, on stderr."""
        if self.as_json:
            from flakes.wire import codec

            sys.stderr.write(codec.encode(error.body()).decode() + "\n")
            return
        self.talk(Span("error: ", "red", bold=True), error.message)
        for issue in error.details.get("issues", ()):
            if isinstance(issue, dict):
                self.talk(f"  {issue.get('path', '')}: {issue.get('message', '')}")
        if error.fix:
            self.talk(Span("fix: ", "green"), error.fix)

    def problem(self, where: str, message: str, fix: str) -> None:
        """One fault of a file, in the form that editors and people both find."""
        self.talk(bold(f"{where}:"), f" {message}")
        if fix:
            self.talk(Span("  fix: ", "green"), fix)


def has_colour(stream: IO[Any]) -> bool:
    """Whether styles are wanted on this stream."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def is_terminal(stream: IO[Any]) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def _write(stream: IO[str], parts: tuple[Part, ...]) -> None:
    coloured = has_colour(stream)
    pieces: list[str] = []
    for part in parts:
        span = part if isinstance(part, Span) else Span(part)
        text = clean(span.text)
        if coloured and text and (span.colour or span.bold or span.dim):
            text = click.style(text, fg=span.colour, bold=span.bold or None, dim=span.dim or None)
        pieces.append(text)
    try:
        stream.write("".join(pieces) + "\n")
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write("".join(pieces).encode(encoding, "replace").decode(encoding) + "\n")
