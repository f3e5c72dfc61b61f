"""What agents said and did: pages of a transcript, following it, and the native records."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote

import httpx2

from flakes.client import events, sse
from flakes.client.events import Notice
from flakes.client.transport import Transport, error_of
from flakes.wire import codec
from flakes.wire.errors import ApiError
from flakes.wire.metrics import ProjectMetrics
from flakes.wire.transcripts import Transcript, TranscriptEntry

SILENCE_S = 60.0


class TranscriptMethods:
    """The part of `Client` that is about agents."""

    _transport: Transport

    async def transcript(
        self, task_id: str, *, after: str | None = None, limit: int | None = None
    ) -> Transcript:
        """A page of entries of all attempts, oldest first; pass its `next_cursor` as `after` for the next."""
        params = {"after": after, "limit": limit}
        return await self._transport.call("GET", _path(task_id), Transcript, params=params)

    async def follow_transcript(
        self,
        task_id: str,
        *,
        after: str | None = None,
        patience_s: float | None = None,
        notice: Notice | None = None,
    ) -> AsyncGenerator[TranscriptEntry]:
        """Entries as they come until the task has ended; reconnects by itself after the last one."""
        params = {"after": after, "follow": "1"}
        stream = events.frames(
            self._transport, _path(task_id), params, patience_s=patience_s, notice=notice
        )
        async with aclosing(stream) as source:
            async for frame in source:
                if frame.event == "end":
                    return
                yield _entry(frame)

    async def raw_transcript(self, task_id: str) -> AsyncGenerator[bytes]:
        """The agents' own records, as the bytes of JSON lines."""
        try:
            stream = self._transport.stream(_path(task_id), {"format": "raw"}, {}, SILENCE_S)
            async with stream as response:
                if response.status_code != 200:
                    raise error_of(response.status_code, await response.aread())
                async for chunk in response.aiter_bytes():
                    yield chunk
        except httpx2.TransportError as error:
            raise self._transport.unreachable(error) from error

    async def project_metrics(self, project: str) -> ProjectMetrics:
        """What the agents of all runs of a project have spent."""
        path = f"/v1/projects/{quote(project, safe='')}/metrics"
        return await self._transport.call("GET", path, ProjectMetrics)


def _path(task_id: str) -> str:
    return f"/v1/tasks/{quote(task_id, safe='')}/transcript"


def _entry(frame: sse.Frame) -> TranscriptEntry:
    try:
        return codec.decode(frame.data, TranscriptEntry)
    except codec.BodyError as error:
        raise ApiError(
            "protocol_error", f"an entry is not understood: {error}",
            "check that server and client are of compatible versions",
        ) from error  # fmt: skip
