"""A task's log: raw bytes in, numbered lines out, in few messages.

`Splitter` makes lines of one channel: UTF-8 with replacement, NUL replaced, everything else kept; a line
over the limit is cut, each piece but the last ending with the continuation marker. `LogSink` numbers the
lines of an assignment in the order they came and appends them to the outbox, at most every 50 ms.

Invariants: numbers have no gaps, also when lines had to be dropped (then a `system` line says how many).
No message is larger than a frame may be, whatever the content.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Literal

from flakes.core.limits import KIB, LOG_LINE_BYTES_MAX
from flakes.sandbox.outbox import Outbox
from flakes.wire.codec import encode
from flakes.wire.sandbox_stream import LogLine, LogLines

Channel = Literal["stdout", "stderr", "system"]

CONTINUES: Final = " [continues]"
"""Ends every piece but the last of a line that was longer than the limit."""
DELAY_S: Final = 0.05
DELAY_AWAY_S: Final = 1.0
GATHERED_BYTES_MAX: Final = 128 * KIB
MESSAGE_BYTES_MAX: Final = 512 * KIB
LINES_PER_MESSAGE_MAX: Final = 1_000
_PIECE_BYTES: Final = LOG_LINE_BYTES_MAX - len(CONTINUES)


class Splitter:
    """Lines of one channel, from chunks that are cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that `chunk` completes."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        lines: list[str] = []
        for line in whole:
            lines += pieces(line)
        if len(self._rest) > 8 * LOG_LINE_BYTES_MAX:
            # A line without an end: pass its beginning on, in pieces that are marked as cut. The last
            # character may still be incomplete: it stays behind.
            at = len(self._rest) - 1
            while len(self._rest) - at < 4 and self._rest[at] & 0xC0 == 0x80:
                at -= 1
            *cut, last = pieces(self._rest[:at])
            lines += cut
            self._rest = last.encode() + self._rest[at:]
        return lines

    def end(self) -> list[str]:
        """What was left without a newline."""
        rest, self._rest = self._rest, b""
        return pieces(rest) if rest else []


def pieces(line: bytes) -> list[str]:
    """One raw line as texts of at most the limit in UTF-8 bytes."""
    text = line.decode("utf-8", "replace").replace("\0", "\ufffd")
    if len(text) * 4 <= LOG_LINE_BYTES_MAX:
        return [text]
    data = text.encode()
    found: list[str] = []
    while len(data) > LOG_LINE_BYTES_MAX:
        at = _PIECE_BYTES
        while data[at] & 0xC0 == 0x80:  # not in the middle of a character
            at -= 1
        found.append(data[:at].decode() + CONTINUES)
        data = data[at:]
    found.append(data.decode())
    return found


class LogSink:
    """The log of one assignment, on its way into the outbox."""

    def __init__(self, assignment_id: str, outbox: Outbox, next_line: int = 0) -> None:
        self._assignment_id = assignment_id
        self._outbox = outbox
        self._splitters: dict[Channel, Splitter] = {"stdout": Splitter(), "stderr": Splitter()}
        self._gathered: list[LogLine] = []
        self._gathered_bytes = 0
        self._next_line = next_line
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        self._flushed_at = 0.0
        self._loop = asyncio.get_running_loop()

    async def write(self, channel: Channel, chunk: bytes) -> None:
        """Take in bytes of a channel. Waits while the log is behind and the control plane is there."""
        has_room = await self._outbox.room(self._assignment_id)
        self._add(channel, self._splitters[channel].feed(chunk), keep=has_room)

    def say(self, text: str) -> None:
        """A line of the sandbox's own, on the `system` channel."""
        self._add("system", pieces(text.encode()), keep=True)

    @property
    def next_line(self) -> int:
        """The number of the next line that is passed on."""
        return self._next_line

    def close(self) -> None:
        """Pass on what is left, also half lines."""
        for channel, splitter in self._splitters.items():
            self._add(channel, splitter.end(), keep=True)
        self._note_dropped()
        self.flush()

    def flush(self) -> None:
        """Append everything that was gathered to the outbox."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flushed_at = self._loop.time()
        lines, self._gathered, self._gathered_bytes = self._gathered, [], 0
        for start in range(0, len(lines), LINES_PER_MESSAGE_MAX):
            self._append(lines[start : start + LINES_PER_MESSAGE_MAX])

    def _append(self, lines: list[LogLine]) -> None:
        message = LogLines(
            assignment_id=self._assignment_id, first_line=self._next_line, lines=lines
        )
        body = encode(message)
        if len(body) > MESSAGE_BYTES_MAX and len(lines) > 1:
            # Escaping can make a line six times as long.
            middle = len(lines) // 2
            self._append(lines[:middle])
            self._append(lines[middle:])
            return
        self._next_line += len(lines)
        self._outbox.append(self._assignment_id, body)

    def _add(self, channel: Channel, texts: list[str], *, keep: bool) -> None:
        if not texts:
            return
        if not keep:
            self._dropped += len(texts)
            return
        self._note_dropped()
        at_ms = time.time_ns() // 1_000_000
        for text in texts:
            self._gathered.append(LogLine(channel=channel, at_ms=at_ms, text=text))
            self._gathered_bytes += len(text) + 48
        if self._gathered_bytes > GATHERED_BYTES_MAX:
            self.flush()
        elif self._timer is None:
            # The first line after a pause goes at once; while more come, they gather.
            delay_s = DELAY_S if self._outbox.connected else DELAY_AWAY_S
            due = self._flushed_at + delay_s
            self._timer = self._loop.call_at(max(due, self._loop.time()), self.flush)

    def _note_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.say(f"[{dropped} lines dropped while the control plane was away]")
