"""What lines on a terminal are made of: pieces of text, plain or styled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Text with a colour (a name that click knows) and weight."""

    text: str
    colour: str | None = None
    bold: bool = False
    dim: bool = False


Part = str | Span


def bold(text: str) -> Span:
    return Span(text, bold=True)


def dim(text: str) -> Span:
    return Span(text, dim=True)
