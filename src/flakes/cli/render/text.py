"""Text from elsewhere, made fit for a terminal; and short forms of times, sizes and counts."""

from __future__ import annotations

import re
from datetime import UTC, datetime

# Whole sequences go first, so that their parameters do not stay behind as litter: CSI, then the string
# sequences (OSC, DCS, SOS, PM, APC) up to their end, then two-character escapes.
_SEQUENCE = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|(?:\x1b[\\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)?"
    "|\x1b[ -/]*[0-~]?"
)
# What is left: C0 without tab and line feed, DEL, C1, and the characters that reorder text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f]")
_RETURN = re.compile(r"[^\n]*\r(?!\n|\Z)")


def clean(text: str) -> str:
    """`text` without anything that a terminal would act on. Tabs and line ends stay.

    What a carriage return would have overwritten is dropped, as a terminal shows it (progress bars).
    """
    if text.isprintable():
        return text
    if "\r" in text:
        text = _RETURN.sub("", text)
    return _CONTROL.sub("", _SEQUENCE.sub("", text))


def one_line(text: str) -> str:
    """Clean text as a single line, its white space collapsed."""
    return " ".join(clean(text).split())


def shortened(text: str, length: int) -> str:
    """At most `length` characters, the last an ellipsis when something is missing."""
    return text if len(text) <= length else text[: max(0, length - 1)] + "…"


def duration(seconds: float) -> str:
    """`850ms`, `12.3s`, `4m05s`, `2h07m`, `3d04h`."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def size(size_bytes: int) -> str:
    """`512 B`, `4.0 KiB`, `2.1 MiB`."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def count(number: int, noun: str) -> str:
    """`1 task`, `12,000 tasks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def clock(at: datetime) -> str:
    """The time of day where the user is, `12:01:02`."""
    return at.astimezone().strftime("%H:%M:%S")


def moment(at: datetime | None) -> str:
    """Date and time where the user is, or a dash."""
    return "-" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(at: datetime | None, now: datetime | None = None) -> str:
    """`3m05s ago`, or a dash."""
    if at is None:
        return "-"
    return f"{duration(((now or datetime.now(UTC)) - at).total_seconds())} ago"


def until(at: datetime, now: datetime | None = None) -> str:
    """`in 3m05s`, or `now` when it has come."""
    seconds = (at - (now or datetime.now(UTC))).total_seconds()
    return "now" if seconds <= 0 else f"in {duration(seconds)}"


def excerpt(text: str, lines_max: int, chars_max: int) -> tuple[str, int]:
    """The first lines of `text` within both bounds, and how many lines were left out."""
    lines = clean(text).rstrip().split("\n")
    kept: list[str] = []
    room = chars_max
    for line in lines[:lines_max]:
        if len(line) > room:
            if not kept:
                kept.append(shortened(line, room))
            break
        kept.append(line)
        room -= len(line) + 1
    return "\n".join(kept), len(lines) - len(kept)
