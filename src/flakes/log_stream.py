"""The stream that logs are written to: it never fails whoever writes.

A full disk, or a terminal that went away, costs lines of a log and nothing else. It knows nothing of
formats, levels or programs.
"""

from __future__ import annotations

import contextlib
from typing import TextIO


class LogStream:
    """`stream`, with every `OSError` of writing swallowed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()
