"""Artifacts through the API: announced, uploaded, listed, fetched. The bytes are streamed both ways.

An upload is told its digest first and goes on where the server says it is, after a broken connection or a
restart of either side. A download is checked against the artifact's digest, and goes on with `Range` where
it broke; a file appears under its name only when it is whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from flakes.client.transport import Transport, error_of
from flakes.wire import artifacts
from flakes.wire.errors import ApiError

PIECE_BYTES: Final = 512 * 1024
SILENCE_S: Final = 60.0
FINISH_S: Final = 300.0
"""How long the server may take to say that an upload is whole: it may have to read it once more."""
TRIES: Final = 8
"""Attempts without progress before a broken transfer is given up."""
BACKOFF_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
PASSING: Final = frozenset({
    "server_unreachable", "database_unavailable", "rate_limited", "upload_busy",
    "upload_offset_conflict",
})  # fmt: skip

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are done."""


class ArtifactMethods:
    """The part of `Client` that is about artifacts and outputs."""

    _transport: Transport

    async def create_artifact(
        self, body: artifacts.ArtifactPost | Mapping[str, Any]
    ) -> artifacts.Artifact:
        """Announce an artifact, or make it whole at once when the body holds its bytes."""
        return await self._transport.call(
            "POST", "/v1/artifacts", artifacts.Artifact, body=body, keyed=True
        )

    async def get_artifact(self, artifact_id: str) -> artifacts.Artifact:
        return await self._transport.call("GET", _path(artifact_id), artifacts.Artifact)

    async def list_artifacts(
        self,
        run: str | None = None,
        *,
        task_id: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> artifacts.Artifacts:
        """Of a run, of one of its tasks, or all; newest first."""
        params = {"limit": limit, "cursor": cursor, "taskId": task_id}
        path = "/v1/artifacts" if run is None else f"/v1/runs/{quote(run, safe='')}/artifacts"
        return await self._transport.call("GET", path, artifacts.Artifacts, params=params)

    async def delete_artifact(self, artifact_id: str) -> None:
        await self._transport.send("DELETE", _path(artifact_id))

    async def run_outputs(
        self, run: str, *, limit: int | None = None, cursor: str | None = None
    ) -> artifacts.RunOutputs:
        """What the ended tasks of a run left behind, with digests and without bytes."""
        params = {"limit": limit, "cursor": cursor}
        path = f"/v1/runs/{quote(run, safe='')}/outputs"
        return await self._transport.call("GET", path, artifacts.RunOutputs, params=params)

    async def artifact_upload(self, artifact_id: str) -> artifacts.ArtifactUpload:
        """How far an upload is."""
        path = _path(artifact_id, "upload")
        return await self._transport.call("GET", path, artifacts.ArtifactUpload)

    async def put_artifact_content(
        self,
        artifact_id: str,
        content: AsyncIterable[bytes],
        *,
        start: int,
        end: int,
        total: int,
        digest: str | None = None,
    ) -> artifacts.ArtifactUpload:
        """Send one part, from `start` up to, not including, `end`; one attempt."""
        part = f"bytes {start}-{end - 1}/{total}" if end > start else f"bytes */{total}"
        headers = {"content-length": str(end - start)}
        if total:
            headers["content-range"] = part
        return await self._transport.upload(
            _path(artifact_id, "content"), artifacts.ArtifactUpload, content=content,
            params={"digest": digest}, headers=headers, silence_s=FINISH_S,
        )  # fmt: skip

    async def upload_artifact(
        self,
        path: Path,
        *,
        kind: str = "file",
        name: str | None = None,
        media_type: str | None = None,
        run: str | None = None,
        task_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        artifact_id: str | None = None,
        progress: Progress | None = None,
        announced: Callable[[artifacts.Artifact], None] | None = None,
    ) -> artifacts.Artifact:
        """Upload a file, over as many requests as it takes; with `artifact_id`, go on with an upload.

        `announced` is told the artifact before its first byte is sent.
        """
        with path.open("rb") as file:
            digest = await asyncio.to_thread(digest_of, file)
            size_bytes = file.tell()
            if artifact_id is None:
                guessed = media_type or mimetypes.guess_type(name or path.name)[0]
                artifact = await self.create_artifact(
                    artifacts.ArtifactPost(
                        kind=kind, name=name or path.name, media_type=guessed, digest=digest,
                        size_bytes=size_bytes, run_id=run, task_id=task_id, metadata=metadata or {},
                    )
                )  # fmt: skip
            else:
                artifact = await self.get_artifact(artifact_id)
                _check_same(artifact, path, digest, size_bytes)
            if announced is not None:
                announced(artifact)
            await self._send(artifact.artifact_id, file, size_bytes, digest, progress)
        return await self.get_artifact(artifact.artifact_id)

    async def artifact_bytes(
        self,
        artifact: artifacts.Artifact,
        *,
        location_id: str | None = None,
        start: int = 0,
        hasher: Any = None,
    ) -> AsyncGenerator[bytes]:
        """The content from `start` on, over breaks, checked when its end is reached: `digest_mismatch`.

        With a `start`, `hasher` has seen the bytes before it.
        """
        digest, size_bytes = _content_of(artifact)
        path = _path(artifact.artifact_id, "fetch")
        params = {"locationId": location_id}
        pieces = self._content(path, params, digest, size_bytes, start=start, hasher=hasher)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def _content(
        self,
        path: str,
        params: Mapping[str, Any],
        digest: str,
        size_bytes: int,
        *,
        start: int = 0,
        hasher: Any = None,
    ) -> AsyncGenerator[bytes]:
        """What lies at a path, from `start` on, over breaks and checked at its end."""
        import httpx2

        hasher = hasher if hasher is not None else hashlib.sha256()
        offset, tries = start, 0
        while offset < size_bytes:
            headers = {"accept-encoding": "identity"}
            if offset:
                headers |= {"range": f"bytes={offset}-", "if-range": f'"{digest}"'}
            before = offset
            try:
                opened = self._transport.stream(path, params, headers, SILENCE_S)
                async with opened as response:
                    if response.status_code >= 400:
                        raise error_of(response.status_code, await response.aread())
                    if response.status_code != (206 if before else 200):
                        raise ApiError("protocol_error", f"the server answered a range with {response.status_code}", "fetch it again")
                    async for piece in response.aiter_raw(PIECE_BYTES):
                        hasher.update(piece)
                        offset += len(piece)
                        yield piece
                failure = ApiError("server_unreachable", "the connection ended early", "")
            except httpx2.TransportError as error:
                failure = self._transport.unreachable(error)
            except ApiError as error:
                if error.code not in PASSING:
                    raise
                failure = error
            if offset < size_bytes:
                tries = 0 if offset > before else tries + 1
                await self._pause(tries, failure)
        found = f"sha256:{hasher.hexdigest()}"
        if found != digest or offset != size_bytes:
            raise ApiError("digest_mismatch", f"the bytes that came have the digest {found}, not {digest}", "fetch it again; if that does not help, its stored content is damaged")

    async def download_artifact(
        self,
        artifact_id: str,
        target: Path,
        *,
        location_id: str | None = None,
        progress: Progress | None = None,
    ) -> artifacts.Artifact:
        """Fetch into a file, which is replaced when everything is there and checked.

        What an interrupted download left in the hidden `.part` file beside it is used.
        """
        artifact = await self.get_artifact(artifact_id)
        digest, size_bytes = _content_of(artifact)
        partial = target.with_name(f".{target.name}.{digest[7:23]}.part")
        with partial.open("a+b") as file:
            file.seek(0)
            hasher = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
            if file.tell() > size_bytes:
                file.truncate(0)
                hasher = hashlib.sha256()
            offset = file.seek(0, os.SEEK_END)
            pieces = self.artifact_bytes(
                artifact, location_id=location_id, start=offset, hasher=hasher
            )
            try:
                async with aclosing(pieces):
                    async for piece in pieces:
                        file.write(piece)
                        offset += len(piece)
                        if progress is not None:
                            progress(offset, size_bytes)
            except ApiError as error:
                if error.code == "digest_mismatch":
                    partial.unlink()
                raise
        partial.replace(target)
        return artifact

    async def save_output(self, task_id: str, output_key: str, target: Path) -> int:
        """One output of a task into a file, checked against its digest; its size in bytes."""
        path = f"/v1/tasks/{quote(task_id, safe='')}/outputs/{quote(output_key, safe='')}"
        response = await self._transport.send("GET", path)
        found = f'"sha256:{hashlib.sha256(response.content).hexdigest()}"'
        if response.headers.get("etag") != found:
            raise ApiError("digest_mismatch", "the bytes that came are not those of the output's digest", "fetch it again")
        partial = target.with_name(f".{target.name}.part")
        partial.write_bytes(response.content)
        partial.replace(target)
        return len(response.content)

    async def _send(
        self, artifact_id: str, file: IO[bytes], size_bytes: int, digest: str, progress: Progress | None
    ) -> None:
        furthest, tries = -1, 0
        while True:
            state = await self.artifact_upload(artifact_id)
            if state.state == "ready":
                return
            tries = 0 if state.offset > furthest else tries + 1
            furthest = max(furthest, state.offset)
            content = _pieces(file, state.offset, size_bytes, progress)
            try:
                state = await self.put_artifact_content(
                    artifact_id, content, start=state.offset, end=size_bytes, total=size_bytes,
                    digest=digest,
                )  # fmt: skip
            except ApiError as error:
                if error.code not in PASSING and error.code != "artifact_ready":
                    raise
                await self._pause(tries, error)
            else:
                if state.state == "ready":
                    return

    async def _pause(self, tries: int, failure: ApiError) -> None:
        if tries >= TRIES:
            raise failure
        await asyncio.sleep(min(BACKOFF_MAX_S, BACKOFF_S * 2**tries))
        await self._transport.relocate()


def digest_of(file: IO[bytes]) -> str:
    """The digest of a file from its beginning, as artifacts are named; the file is at its end then."""
    file.seek(0)
    hasher = hashlib.sha256()
    while piece := file.read(PIECE_BYTES):
        hasher.update(piece)
    return f"sha256:{hasher.hexdigest()}"


async def _pieces(
    file: IO[bytes], start: int, end: int, progress: Progress | None
) -> AsyncGenerator[bytes]:
    file.seek(start)
    while start < end:
        piece = await asyncio.to_thread(file.read, min(PIECE_BYTES, end - start))
        if not piece:
            raise ApiError("usage", "the file became shorter while it was uploaded", "upload it again when nobody writes to it")
        yield piece
        start += len(piece)
        if progress is not None:
            progress(start, end)


def _check_same(artifact: artifacts.Artifact, path: Path, digest: str, size_bytes: int) -> None:
    if artifact.digest not in (None, digest) or artifact.size_bytes not in (None, size_bytes):
        raise ApiError("digest_mismatch", f"{path} is not the content that {artifact.artifact_id} was announced with", "upload it as a new artifact")


def _content_of(artifact: artifacts.Artifact) -> tuple[str, int]:
    if artifact.state != "ready" or artifact.digest is None or artifact.size_bytes is None:
        raise ApiError("artifact_pending", f"the content of {artifact.artifact_id} has not arrived yet", "upload it first: `flakes artifacts upload PATH --resume ARTIFACT`")
    return artifact.digest, artifact.size_bytes


def _path(artifact_id: str, *rest: str) -> str:
    return "/".join(("/v1/artifacts", quote(artifact_id, safe=""), *rest))
