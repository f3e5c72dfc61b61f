"""The way out of an isolated task: a proxy for HTTP and CONNECT that lets through what is listed, and says so.

It serves a listening socket that lives in the task's own network namespace (`inside.hand_over`), so the task
reaches it at its loopback and nothing else anywhere; the connections out are made here, by the daemon. Names are
resolved here too. Every request is reported, the refused ones with the reason.

Invariants: one request a connection, so none goes out unseen behind another; the address that is connected to is
the one that was judged; an address of this machine or its link is reached only where the list names an address or
`localhost`, so that no name of somebody else's can point there.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import structlog

from flakes.core.egress import Entry, allowing, canonical, is_inner, parse

log = structlog.get_logger(__name__)

PORT: Final = 3128
"""On the loopback of the task's namespace; nobody else is there."""
HEAD_BYTES_MAX: Final = 64 * 1024
HEAD_PATIENCE_S: Final = 30.0
CONNECT_PATIENCE_S: Final = 20.0
CONNECTIONS_MAX: Final = 256
CHUNK_BYTES: Final = 64 * 1024
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "upgrade", "host"}
)
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f-\uffff]")


class _RefusedError(Exception):
    """Answered with a status and a sentence."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Proxy:
    """One task's. `say` gets a line for each request."""

    def __init__(self, allow: Sequence[str], say: Callable[[str], None]) -> None:
        self.allow = tuple(allow)
        self._entries = [parse(text) for text in allow]
        self._say = say
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Answer on a socket that listens already; takes it over. Whoever called closes the server."""
        return await asyncio.start_server(self._accept, sock=listener, limit=HEAD_BYTES_MAX)

    async def close(self) -> None:
        """End every connection."""
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one of the ends has gone, or the task is over
        except Exception:
            log.exception("egress failed")
        finally:
            self._serving.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, what = "?", "?"
        try:
            if len(self._serving) > CONNECTIONS_MAX:
                raise _RefusedError(
                    "503 Service Unavailable", f"more than {CONNECTIONS_MAX} at once"
                )
            method, target, headers = await _head(reader)
            what = f"{method} {_CONTROL.sub('?', target)[:200]}"
            host, port, path = _target(method, target)
            _check_body(headers)
            what = f"{method} {_shown(host)}:{port}"
            upstream = await self._connect(host, port)
        except _RefusedError as refused:
            self._say(f"network: {what}: refused: {refused}")
            body = f"{refused}\n".encode()
            head = f"HTTP/1.1 {refused.status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            return
        self._say(f"network: {what}: allowed")
        out_reader, out_writer = upstream
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await _both_ways(reader, writer, out_reader, out_writer)
            else:
                out_writer.write(_request(method, path, host, port, headers))
                sending = asyncio.create_task(_send_body(reader, out_writer, headers))
                try:
                    await _pass_on(out_reader, writer)
                finally:
                    sending.cancel()
                    await asyncio.wait({sending})
                    if not sending.cancelled():
                        sending.exception()
        finally:
            out_writer.close()

    async def _connect(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        entry = allowing(self._entries, host, port)
        if entry is None:
            raise _RefusedError("403 Forbidden", "not in the pool's network.allow")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_PATIENCE_S):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = [str(item[4][0]) for item in found]
                fine = _judged(addresses, entry)
                return await _first(fine, port)
        except TimeoutError:
            raise _RefusedError("504 Gateway Timeout", "it does not answer") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise _RefusedError("502 Bad Gateway", f"it cannot be reached: {reason}") from error


def _judged(addresses: list[str], entry: Entry) -> list[str]:
    fine = [each for each in addresses if entry.may_be_inner or not is_inner(each)]
    if not fine:
        raise _RefusedError(
            "403 Forbidden", "its address is this machine's, which the list does not name"
        )
    return fine


async def _first(
    addresses: list[str], port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first that takes one."""
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return await asyncio.open_connection(address, port, limit=CHUNK_BYTES)
    return await asyncio.open_connection(addresses[-1], port, limit=CHUNK_BYTES)


async def _head(reader: asyncio.StreamReader) -> tuple[str, str, list[tuple[str, str]]]:
    """Method, target and headers of a request."""
    try:
        async with asyncio.timeout(HEAD_PATIENCE_S):
            data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _RefusedError("431 Request Header Fields Too Large", "its head is too long") from None
    except TimeoutError:
        raise _RefusedError("408 Request Timeout", "its head did not come") from None
    first, *lines = data[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _RefusedError("400 Bad Request", "not a request to a proxy")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or "\n" in value:
            raise _RefusedError("400 Bad Request", "a header is not understood")
        headers.append((name, value.strip()))
    return words[0], words[1], headers


def _target(method: str, target: str) -> tuple[str, int, str]:
    """Host, port and path of a request."""
    try:
        if method == "CONNECT":
            parts = urlsplit(f"//{target}")
            port, path = parts.port, ""
        else:
            parts = urlsplit(target)
            if parts.scheme != "http":
                raise ValueError
            port = parts.port or 80
            path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
            path = path if path.startswith("/") else f"/{path}"
        host = canonical(parts.hostname or "")
    except ValueError:
        raise _RefusedError("400 Bad Request", "not an address for a proxy") from None
    if not host or not port or _CONTROL.search(host):
        raise _RefusedError("400 Bad Request", "not an address for a proxy")
    return host, port, path


def _check_body(headers: list[tuple[str, str]]) -> None:
    """Refuse a body whose end two readers could see in two places."""
    lengths = {value for name, value in headers if name.lower() == "content-length"}
    codings = [value.lower() for name, value in headers if name.lower() == "transfer-encoding"]
    clear = not codings or (codings == ["chunked"] and not lengths)
    if (
        not clear
        or len(lengths) > 1
        or not all(re.fullmatch(r"\d{1,15}", each) for each in lengths)
    ):
        raise _RefusedError("400 Bad Request", "the length of its body is not clear")


def _request(method: str, path: str, host: str, port: int, headers: list[tuple[str, str]]) -> bytes:
    """The head that goes out: to the host that was judged, whatever `Host` said."""
    named = _shown(host) if port == 80 else f"{_shown(host)}:{port}"
    lines = [f"{method} {path} HTTP/1.1", f"Host: {named}"]
    lines += [f"{name}: {value}" for name, value in headers if name.lower() not in _HOP_BY_HOP]
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("latin-1")


async def _send_body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: list[tuple[str, str]]
) -> None:
    """Exactly the body that the head announces, and nothing behind it."""
    values = {name.lower(): value for name, value in headers}
    if values.get("transfer-encoding", "").lower() == "chunked":
        while True:
            line = await reader.readuntil(b"\r\n")
            writer.write(line)
            size = int(line.split(b";", 1)[0], 16)
            if size == 0:
                break
            await _copy(reader, writer, size + 2)
        while True:
            line = await reader.readuntil(b"\r\n")
            writer.write(line)
            if line == b"\r\n":
                break
    else:
        await _copy(reader, writer, int(values.get("content-length", "0") or 0))
    await writer.drain()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size_bytes: int
) -> None:
    while size_bytes > 0:
        data = await reader.read(min(CHUNK_BYTES, size_bytes))
        if not data:
            raise asyncio.IncompleteReadError(b"", size_bytes)
        size_bytes -= len(data)
        writer.write(data)
        await writer.drain()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


async def _both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    out_reader: asyncio.StreamReader,
    out_writer: asyncio.StreamWriter,
) -> None:
    ways = [
        asyncio.create_task(_pass_on(reader, out_writer)),
        asyncio.create_task(_pass_on(out_reader, writer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.ALL_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
