"""Following the event log: one endless, resumable stream out of many connections.

The cursor of the last event handed out is the only state. A connection that ends, breaks, or falls
silent for longer than three heartbeats is opened again after it with jittered back-off, so an event is
neither lost nor given twice, also across restarts of the server. What the server refuses for good (a
run that does not exist, a token that is revoked) is raised at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import httpx2

from flakes.client import sse
from flakes.client.transport import RETRIED_STATUSES, Transport, error_of, retry_after_s
from flakes.wire import codec
from flakes.wire.errors import ApiError
from flakes.wire.events import Event

SILENCE_S: Final = 45.0
BACKOFF_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
EVENT_STREAM: Final = "text/event-stream"

Notice = Callable[[str], None]
"""Told once in a sentence when the connection is lost, and with an empty string when it is back."""


async def follow(
    transport: Transport,
    params: Mapping[str, Any],
    *,
    after: str | None = None,
    patience_s: float | None = None,
    notice: Notice | None = None,
) -> AsyncGenerator[Event]:
    """Every event that matches `params`, from `after` on, for ever; see `frames`."""
    stream = frames(
        transport, "/v1/events", params, after=after, patience_s=patience_s, notice=notice
    )
    async with aclosing(stream) as source:
        async for frame in source:
            yield _event(frame)


async def frames(
    transport: Transport,
    path: str,
    params: Mapping[str, Any],
    *,
    after: str | None = None,
    patience_s: float | None = None,
    notice: Notice | None = None,
) -> AsyncGenerator[sse.Frame]:
    """Every frame of the stream at `path`, from `after` on, for ever.

    A frame without an id is handed out and changes nothing. A stream that answers something else than
    server-sent events is `protocol_error`. `patience_s` bounds how long the server may be away at a stretch before `server_unreachable` is
    raised; None waits for ever.
    """
    cursor = after
    failures = 0
    lost_at: float | None = None
    told = False
    while True:
        delay_s: float | None = None
        reason = "the connection ended"
        try:
            # `now` is a place to begin, not a cursor; it is only right for the first connection.
            resume = {"last-event-id": cursor} if cursor not in (None, "now") else {}
            query = {**params, "after": "now"} if cursor == "now" else params
            async with transport.stream(
                path, query, {"accept": "text/event-stream", **resume}, SILENCE_S
            ) as response:
                if response.status_code in RETRIED_STATUSES:
                    reason = f"the server answered {response.status_code}"
                    delay_s = retry_after_s(response.headers)
                elif response.status_code != 200:
                    raise error_of(response.status_code, await response.aread())
                elif not response.headers.get("content-type", "").startswith(EVENT_STREAM):
                    raise ApiError(
                        "protocol_error", f"{path} does not answer server-sent events",
                        "check that server and client are of compatible versions",
                    )  # fmt: skip
                else:
                    parser = sse.Parser()
                    async for chunk in response.aiter_bytes():
                        if told and notice is not None:
                            notice("")
                        failures, lost_at, told = 0, None, False
                        for frame in parser.feed(chunk):
                            if frame.id is not None and frame.id == cursor:
                                continue
                            cursor = frame.id or cursor
                            yield frame
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
        except httpx2.InvalidURL as error:
            raise transport.unreachable(error) from error
        except sse.FrameTooLargeError as error:
            raise ApiError(
                "protocol_error", str(error), "report this to the server's operator"
            ) from error
        failures += 1
        now = time.monotonic()
        if lost_at is None:
            lost_at = now
        elif patience_s is not None and now - lost_at > patience_s:
            raise transport.unreachable(ConnectionError(reason))
        # The first failure is an everyday thing: most connections are back before anybody has read of it.
        if failures > 1 and not told and notice is not None:
            told = True
            notice(f"the connection to {transport.address.server} is lost ({reason}); trying again")
        backoff_s = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(failures - 1, 16))
        await asyncio.sleep(delay_s or backoff_s * (0.5 + random.random() / 2))  # noqa: S311
        await transport.relocate()


def _event(frame: sse.Frame) -> Event:
    try:
        return codec.decode(frame.data, Event)
    except codec.BodyError as error:
        raise ApiError(
            "protocol_error",
            f"an event is not understood: {error}",
            "check that server and client are of compatible versions",
        ) from error
