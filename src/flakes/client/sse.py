"""Server-sent events as bytes: a parser that is fed chunks and gives complete frames.

Only LF, CR and CRLF end a line, as the format says; text splitting that also breaks at U+2028 would
tear JSON apart. A frame that the connection cut short is never given out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

FRAME_BYTES_MAX: Final = 8 * 1024 * 1024

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


@dataclass(frozen=True, slots=True)
class Frame:
    """One event. `id` is None when the frame carried none."""

    id: str | None
    event: str
    data: bytes


class FrameTooLargeError(ValueError):
    """The peer sent more than `FRAME_BYTES_MAX` without ending a frame."""


class Parser:
    """Holds the unfinished tail between chunks. A fresh one is needed for every connection."""

    def __init__(self) -> None:
        self._tail = b""
        self._id: str | None = None
        self._event = ""
        self._data: list[bytes] = []
        self._size_bytes = 0

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that this chunk completes, in order."""
        # The expression leaves a CR at the very end alone: its LF may be in the next chunk.
        *lines, self._tail = _LINE_END.split(self._tail + chunk)
        frames: list[Frame] = []
        for line in lines:
            frame = self._line(line)
            if frame is not None:
                frames.append(frame)
        if len(self._tail) + self._size_bytes > FRAME_BYTES_MAX:
            raise FrameTooLargeError(f"an event of more than {FRAME_BYTES_MAX} bytes")
        return frames

    def _line(self, line: bytes) -> Frame | None:
        if not line:
            frame = None
            if self._data:
                frame = Frame(self._id, self._event or "message", b"\n".join(self._data))
            self._id, self._event, self._data, self._size_bytes = None, "", [], 0
            return frame
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size_bytes += len(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        return None
