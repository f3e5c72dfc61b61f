"""One line that tells how far a transfer is, on a terminal; elsewhere nothing."""

from __future__ import annotations

import sys
import time

from flakes.cli.output import is_terminal
from flakes.cli.render.text import size

EVERY_S = 0.1


class TransferLine:
    """Call it with bytes done and bytes in all; `close` clears the line."""

    def __init__(self, what: str, quiet: bool = False) -> None:
        self._what = what
        self._shown = not quiet and is_terminal(sys.stderr)
        self._began_s = self._last_s = time.monotonic()
        self._first: int | None = None

    def __call__(self, done_bytes: int, size_bytes: int) -> None:
        now_s = time.monotonic()
        if not self._shown or now_s - self._last_s < EVERY_S:
            return
        if self._first is None:
            self._first = done_bytes
        self._last_s = now_s
        speed = (done_bytes - self._first) / max(0.001, now_s - self._began_s)
        percent = 100 * done_bytes // max(1, size_bytes)
        sys.stderr.write(
            f"\r\x1b[K{self._what} {size(done_bytes)} of {size(size_bytes)} ({percent}%, {size(int(speed))}/s)"
        )
        sys.stderr.flush()

    def close(self) -> None:
        """Take the line away."""
        if self._shown and self._first is not None:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

