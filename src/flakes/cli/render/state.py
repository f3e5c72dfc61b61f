"""The look of states: one glyph and one colour each, for runs, tasks, hosts and sandboxes alike."""

from __future__ import annotations

import sys

from flakes.cli.render.parts import Span

_LOOKS: dict[str, tuple[str, str, str | None]] = {
    "SUCCEEDED": ("✔", "+", "green"),
    "FAILED": ("✘", "x", "red"),
    "CANCELLED": ("⊘", "-", "yellow"),
    "RUNNING": ("●", "*", "cyan"),
    "WAITING": ("◐", "~", "magenta"),
    "QUEUED": ("○", "o", "blue"),
    "BLOCKED": ("◌", ".", None),
    "SAVED": ("·", " ", None),
    "CREATED": ("·", " ", None),
    "STALLED": ("‼", "!", "red"),
}
_WORDS: dict[str, str] = {
    "online": "green", "running": "green", "active": "green", "available": "green",
    "succeeded": "green", "accepted": "cyan", "offered": "blue", "launching": "blue",
    "pending_launch": "blue", "suspect": "yellow", "draining": "yellow", "offline": "yellow",
    "lost": "yellow", "declined": "yellow", "cancelled": "yellow", "failed": "red",
    "queued": "blue", "delivered": "cyan", "consumed": "green", "undeliverable": "red",
    "retired": "yellow", "revoked": "red", "disabled": "yellow", "unavailable": "red",
    "stopping": "yellow", "deleting": "yellow", "pending": "magenta", "approved": "green", "denied": "red", "expired": "yellow",
}  # fmt: skip

ORDER = ("RUNNING", "WAITING", "QUEUED", "BLOCKED", "SAVED", "FAILED", "CANCELLED", "SUCCEEDED")
"""The order in which counts of states are read out."""


def glyph(state: str) -> str:
    """One character for a state, in what the terminal's encoding can show."""
    fancy, plain, _ = _LOOKS.get(state, ("?", "?", None))
    return fancy if "utf" in (sys.stdout.encoding or "utf-8").lower() else plain


def colour(state: str) -> str | None:
    return _LOOKS[state][2] if state in _LOOKS else _WORDS.get(state)


def state(name: str, *, with_glyph: bool = False) -> Span:
    """A state's name in its colour."""
    text = f"{glyph(name)} {name}" if with_glyph else name
    return Span(text, colour(name), dim=name in ("BLOCKED", "SAVED", "offline"))


def counts(numbers: dict[str, int]) -> list[Span | str]:
    """`3 running, 2 queued, 10 succeeded` as parts of a line."""
    parts: list[Span | str] = []
    for name in ORDER:
        number = numbers.get(name, 0)
        if number:
            if parts:
                parts.append(", ")
            parts.append(Span(f"{number:,} {name.lower()}", colour(name)))
    return parts or ["no tasks"]
