"""The daemon's ends of pipes: `Chunks` to read from, `Feed` to write to, both with back-pressure.

They know bytes only. Invariants: reading stops while too much is unread, so that a process that writes
faster than its log is taken waits; nothing that came is lost when the other end closes.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from typing import Final, cast

UNREAD_BYTES_MAX: Final = 512 * 1024


class Chunks(asyncio.Protocol):
    """The read end of a pipe. Reading stops while too much of it is unread."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._ended = False
        self._came = asyncio.Event()
        self._transport: asyncio.ReadTransport | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.ReadTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._size_bytes += len(data)
        self._came.set()
        if self._size_bytes > UNREAD_BYTES_MAX and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._came.set()

    async def read(self) -> bytes:
        """Everything unread, waiting for something; empty at the end."""
        while not self._parts and not self._ended:
            self._came.clear()
            await self._came.wait()
        data = b"".join(self._parts)
        self._parts.clear()
        self._size_bytes = 0
        if self._paused and self._transport:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def lines(self, size_bytes_max: int = 16 * 1024 * 1024) -> AsyncIterator[bytes]:
        """Lines without their newline; a longer one comes in pieces of `size_bytes_max`."""
        rest = b""
        while data := await self.read():
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                for at in range(0, max(len(line), 1), size_bytes_max):
                    yield line[at : at + size_bytes_max]
            while len(rest) >= size_bytes_max:
                yield rest[:size_bytes_max]
                rest = rest[size_bytes_max:]
        if rest:
            yield rest

    async def ended(self) -> None:
        """Until the writers are gone; what was written may still be unread."""
        while not self._ended:
            self._came.clear()
            await self._came.wait()

    def close(self) -> None:
        self._ended = True
        self._came.set()
        if self._transport is not None:
            self._transport.close()


class Feed(asyncio.BaseProtocol):
    """The write end of a pipe; `write` waits while the reader is behind."""

    def __init__(self) -> None:
        self.transport: asyncio.WriteTransport | None = None
        self._free = asyncio.Event()
        self._free.set()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not registered as asyncio's, so there is nothing to assert.
        self.transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._free.set()

    def pause_writing(self) -> None:
        self._free.clear()

    def resume_writing(self) -> None:
        self._free.set()

    async def write(self, data: bytes) -> None:
        if self.transport is None or self.lost:
            raise BrokenPipeError(errno.EPIPE, "the process no longer reads")
        self.transport.write(data)
        await self._free.wait()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()
