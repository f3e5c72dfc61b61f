"""The headers of partial content, read and written: `Range`, `Content-Range`, `If-None-Match`, and the
`Content-Disposition` of a download (RFC 9110 §14, RFC 6266).

Pure text. Whoever asks for several ranges, or in another unit, gets the whole: a server may ignore `Range`.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import quote

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_PART = re.compile(r"bytes +(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_NO_PART = re.compile(r"bytes +\*/(\d{1,18})")


@dataclass(frozen=True, slots=True)
class Part:
    """What a request brings: bytes from `start` up to, not including, `end`, of `total`; None where it does
    not say. `start == end` where it only states the total."""

    start: int
    end: int | None
    total: int | None


class UnsatisfiableError(ValueError):
    """The range begins behind the end of the content."""


def requested(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """The (start, end) that a `Range` header asks for, end excluded; None: the whole."""
    match = _RANGE.fullmatch((header or "").strip().replace(" ", ""))
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        length = int(match[2])
        if length == 0 or size_bytes == 0:
            raise UnsatisfiableError
        return max(0, size_bytes - length), size_bytes
    start = int(match[1])
    if match[2] and int(match[2]) < start:
        return None  # not a valid range: as if it were not there
    if start >= size_bytes:
        raise UnsatisfiableError
    return start, min(int(match[2]) + 1, size_bytes) if match[2] else size_bytes


def sent(header: str) -> Part | None:
    """What a `Content-Range` of a request says; None when it is malformed."""
    text = header.strip()
    if match := _NO_PART.fullmatch(text):
        total = int(match[1])
        return Part(total, total, total)
    match = _PART.fullmatch(text)
    if match is None:
        return None
    start, end = int(match[1]), int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    if end <= start or (total is not None and end > total):
        return None
    return Part(start, end, total)


def names(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` (or `If-Range`) names this tag."""
    tags = [tag.strip().removeprefix("W/") for tag in (header or "").split(",")]
    return etag in tags or tags == ["*"]


def attachment(name: str) -> str:
    """A `Content-Disposition` under which any client saves a file of this name, wherever it says to."""
    clean = safe_name(name)
    plain = unicodedata.normalize("NFKD", clean).encode("ascii", "ignore").decode()
    plain = re.sub(r'["\\;%]', "_", plain).strip() or "artifact"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(clean, safe='')}"


def safe_name(name: str) -> str:
    """The last segment of a name, without control characters, and neither hidden nor empty."""
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(c for c in last if unicodedata.category(c)[0] != "C")
    return kept.strip().lstrip(".").strip()[:200] or "artifact"
