"""The bytes of artifacts in and out, streamed and never held whole.

In: parts with `Content-Range`, each behind the last, or the whole without it. What has arrived becomes
durable segment by segment, so a broken connection or a killed server costs a segment at most, and an upload
goes on at the offset that `GET .../upload` tells. The artifact is ready once everything is there and the
digest agrees; if it does not, nothing is kept. A full disk takes back what the request had brought.
Out: the whole, verified while it is read, or one range of it, which its reader has to verify.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from flakes.core import limits
from flakes.server import byte_ranges
from flakes.server.api.sandbox_scope import refused
from flakes.server.byte_ranges import Part
from flakes.server.handling import refusal
from flakes.server.plane import Plane
from flakes.server.routing import Answer, Call, Endpoint
from flakes.store import artifacts, garbage
from flakes.store.artifacts import Pending
from flakes.store.blob_errors import BlobError
from flakes.store.uploads import Upload, Writer
from flakes.wire.artifacts import Artifact, ArtifactUpload, Digest
from flakes.wire.codec import Issue
from flakes.wire.errors import ApiError, not_found

LOCATION_ID = "server"
"""The one place where content is so far: the blob store of the control plane."""
STALL_S = 60.0
"""A request that brings no byte for so long is ended; what it brought is kept."""


class ContentQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of an upload: the content's digest, if it was not announced."""

    digest: Digest | None = None


class FetchQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of a fetch: which of the artifact's locations."""

    location_id: str | None = None


async def upload_state(call: Call) -> ArtifactUpload:
    """Read how far an upload is."""
    found = await _pending(call)
    return _state(call.plane, found)


async def put_content(call: Call) -> Answer:
    """Upload the content, or the next part of it: 202 until it is whole, then 200."""
    plane = call.plane
    found = await _pending(call)
    announced = call.query.digest or found.digest
    if found.digest not in (None, announced):
        raise _invalid("digest", f"the artifact was announced with {found.digest}")
    if found.upload is None:
        raise ApiError("artifact_ready", "the artifact has its content, which never changes", "create another artifact", digest=found.digest)
    part = _part(call, found)
    if "content-range" in call.request.headers:
        expected = plane.uploads.reached(found.upload)
        if part.start != expected:
            raise artifacts.moved(expected)
        upload = Upload(found.upload.name, expected, found.upload.parts)
        if expected < found.upload.received_bytes:
            async with plane.database.connection() as conn:
                await artifacts.retreat(conn, upload)
    else:
        async with plane.database.connection() as conn:
            upload = await artifacts.restart(conn, found)
        await plane.uploads.discard(found.upload)
    try:
        plane.uploads.require_room((part.end or part.start) - part.start)
        async with plane.uploads.writing(upload) as writer:
            await _receive(call, writer, upload, part, announced)
    except BlobError as error:
        raise refused(error) from error
    return await _answer(call)


async def append(
    plane: Plane, owner_id: str, artifact_id: str, offset: int, content: bytes
) -> ArtifactUpload:
    """Add `content` at `offset`; the piece that reaches the announced size makes the artifact ready. A piece
    that is there already is left as it is, so one may be sent again."""
    found = await _look(plane, owner_id, artifact_id)
    if found.upload is None:
        if offset + len(content) > (found.size_bytes or 0):
            raise ApiError("artifact_ready", "the artifact has its content, which never changes", "create another artifact", digest=found.digest)
        return _state(plane, found)
    if found.size_bytes is None:
        raise _invalid("sizeBytes", "the artifact was announced without its size")
    if offset + len(content) > found.size_bytes:
        raise _invalid("offset", f"the artifact was announced with {found.size_bytes} bytes")
    reached = plane.uploads.reached(found.upload)
    if offset > reached or (offset < reached and offset + len(content) > reached):
        raise artifacts.moved(reached)
    upload = Upload(found.upload.name, reached, found.upload.parts)
    if reached < found.upload.received_bytes:
        async with plane.database.connection() as conn:
            await artifacts.retreat(conn, upload)
    fresh = content if offset == reached else b""
    try:
        plane.uploads.require_room(len(fresh))
        async with plane.uploads.writing(upload) as writer:
            await _append(plane, artifact_id, writer, upload, fresh, found)
    except BlobError as error:
        raise refused(error) from error
    return _state(plane, await _look(plane, owner_id, artifact_id))


async def _append(
    plane: Plane, artifact_id: str, writer: Writer, upload: Upload, content: bytes, found: Pending
) -> None:
    began = upload.received_bytes
    try:
        if content:
            await writer.write(content)
            key = await writer.sync()
            async with plane.database.connection() as conn:
                upload = await artifacts.advance(conn, upload, began + len(content), key)
        if upload.received_bytes == found.size_bytes:
            await _finish(plane, artifact_id, writer, found.digest)
    except BlobError as error:
        if error.code in ("disk_full", "digest_mismatch"):
            await _take_back(plane, writer, upload, 0 if error.code == "digest_mismatch" else began)
        raise


async def piece(plane: Plane, digest: str, start: int, end: int) -> bytes:
    """Some bytes of stored content; whoever reads all of it verifies the whole."""
    try:
        return b"".join([each async for each in plane.blobs.get(digest, start, end)])
    except BlobError as error:
        if error.code in ("blob_missing", "blob_corrupt"):
            raise ApiError("not_found", "the stored content of this artifact is missing or damaged", "restore the server's blob store from a backup") from error
        raise refused(error) from error


async def fetch(call: Call) -> Response:
    """Fetch the bytes, or one range of them."""
    plane = call.plane
    async with plane.database.connection() as conn:
        found = await artifacts.get(conn, call.owner_id, call.path["artifactId"])
    if call.query.location_id not in (None, LOCATION_ID):
        raise not_found("location")
    digest, size_bytes = found.digest, found.size_bytes
    if found.state != "ready" or digest is None or size_bytes is None:
        raise ApiError("artifact_pending", "the content has not arrived yet", "upload it first")
    request = call.request.headers
    etag = f'"{digest}"'
    headers = _headers(found, etag)
    if byte_ranges.names(request.get("if-none-match"), etag):
        return Response(None, 304, headers)
    wanted = None
    if "if-range" not in request or byte_ranges.names(request["if-range"], etag):
        try:
            wanted = byte_ranges.requested(request.get("range"), size_bytes)
        except byte_ranges.UnsatisfiableError:
            error = ApiError("range_not_satisfiable", f"the content has {size_bytes} bytes", "ask for a range that begins within them", sizeBytes=size_bytes)
            answer = refusal(error)
            answer.headers["Content-Range"] = f"bytes */{size_bytes}"
            return answer
    start, end = wanted or (0, size_bytes)
    headers["Content-Length"] = str(end - start)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
    status = 200 if wanted is None else 206
    try:
        if await plane.blobs.size(digest) != size_bytes:
            raise BlobError("blob_missing", "it has another size", "")
        pieces = plane.blobs.get(digest, *(wanted or ()))
        if call.request.method == "HEAD":
            return Response(None, status, headers, found.media_type)
        # The first piece is read here, while a failure can still be told.
        first = await anext(pieces, b"")
    except BlobError as error:
        if error.code in ("blob_missing", "blob_corrupt"):
            raise ApiError("not_found", "the stored content of this artifact is missing or damaged", "restore the server's blob store from a backup") from error
        raise refused(error) from error
    return StreamingResponse(_chained(first, pieces), status, headers, found.media_type)


async def _pending(call: Call) -> Pending:
    return await _look(call.plane, call.owner_id, call.path["artifactId"])


async def _look(plane: Plane, owner_id: str, artifact_id: str) -> Pending:
    async with plane.database.connection() as conn:
        return await artifacts.pending(conn, owner_id, artifact_id)


async def _answer(call: Call) -> Answer:
    found = await _pending(call)
    return Answer(_state(call.plane, found), 200 if found.upload is None else 202)


def _state(plane: Plane, found: Pending) -> ArtifactUpload:
    if found.upload is None:
        assert found.size_bytes is not None
        return ArtifactUpload(
            artifact_id=found.artifact_id, state="ready", offset=found.size_bytes,
            size_bytes=found.size_bytes, digest=found.digest,
        )  # fmt: skip
    return ArtifactUpload(
        artifact_id=found.artifact_id, state="pending", offset=plane.uploads.reached(found.upload),
        size_bytes=found.size_bytes, digest=found.digest, expires_at=found.expires_at,
    )  # fmt: skip


def _part(call: Call, found: Pending) -> Part:
    """What the request brings, from its headers; refused before a byte is read where they contradict."""
    headers = call.request.headers
    length = headers.get("content-length", "")
    length_bytes = int(length) if length.isdigit() and len(length) < 19 else None
    size_bytes = found.size_bytes
    if "content-range" in headers:
        told = byte_ranges.sent(headers["content-range"])
        if told is None or told.end is None:
            raise _invalid("Content-Range", "must be `bytes <first>-<last>/<total>` or `bytes */<total>`")
        if length_bytes not in (None, told.end - told.start):
            raise _invalid("Content-Range", f"names {told.end - told.start} bytes, the body has {length_bytes}")
        part = Part(told.start, told.end, size_bytes if told.total is None else told.total)
    else:
        whole = size_bytes if length_bytes is None else length_bytes
        part = Part(0, whole, whole)
    furthest = max(part.end or 0, part.total or 0)
    if furthest > limits.ARTIFACT_SIZE_BYTES_MAX:
        raise _too_large()
    if size_bytes is not None and (part.total != size_bytes or furthest > size_bytes):
        raise _invalid("sizeBytes", f"the artifact was announced with {size_bytes} bytes")
    return part


async def _receive(
    call: Call, writer: Writer, upload: Upload, part: Part, announced: str | None
) -> None:
    """Write what comes, durably segment by segment; make the artifact ready when it is whole."""
    plane, began = call.plane, upload

    async def commit() -> None:
        nonlocal upload
        count = writer.unsynced_bytes
        if count:
            key = await writer.sync()
            async with plane.database.connection() as conn:
                upload = await artifacts.advance(conn, upload, upload.received_bytes + count, key)

    arrived = upload.received_bytes
    try:
        try:
            async for chunk in _chunks(call):
                arrived += len(chunk)
                if part.end is not None and arrived > part.end:
                    raise _invalid("body", f"is longer than the {part.end} bytes that were told")
                if arrived > limits.ARTIFACT_SIZE_BYTES_MAX:
                    raise _too_large()
                await writer.write(chunk)
                if writer.unsynced_bytes >= plane.uploads.segment_bytes:
                    await commit()
        except (ClientDisconnect, TimeoutError):
            await commit()
            raise ClientDisconnect from None
        await commit()
        if part.end is not None and arrived < part.end:
            raise _invalid("body", f"ended at byte {arrived}, before the {part.end} that were told")
        if arrived == part.total or part.end is None:
            await _finish(plane, call.path["artifactId"], writer, announced)
    except BlobError as error:
        if error.code in ("disk_full", "digest_mismatch"):
            keep = 0 if error.code == "digest_mismatch" else began.received_bytes
            await _take_back(plane, writer, upload, keep)
        raise


async def _finish(plane: Plane, artifact_id: str, writer: Writer, announced: str | None) -> None:
    ref = await writer.ref()
    if announced not in (None, ref.digest):
        raise BlobError(
            "digest_mismatch", f"the content's digest is {ref.digest}, not {announced}",
            "nothing was kept: send the content again, or create another artifact",
        )  # fmt: skip
    async with plane.database.connection() as conn:
        await garbage.note(conn, ref.digest)
    await writer.settle(ref)
    async with plane.database.transaction() as conn:
        await artifacts.make_ready(conn, artifact_id, ref)
    plane.wrote()


async def _take_back(plane: Plane, writer: Writer, upload: Upload, keep: int) -> None:
    """Make it as if the bytes beyond `keep` had never come."""
    parts = tuple(key for key in upload.parts if _start_of(key) < keep)
    await writer.retreat(keep)
    async with plane.database.connection() as conn:
        await artifacts.retreat(conn, Upload(upload.name, keep, parts))


def _start_of(key: str) -> int:
    return int(key.rsplit("/", 1)[1].partition("-")[0])


async def _chunks(call: Call) -> AsyncIterator[bytes]:
    pieces = aiter(call.request.stream())
    while True:
        async with asyncio.timeout(STALL_S):
            piece = await anext(pieces, None)
        if piece is None:
            return
        if piece:
            yield piece


async def _chained(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in pieces:
        yield piece


def _headers(found: Artifact, etag: str) -> dict[str, str]:
    return {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": byte_ranges.attachment(found.name or found.artifact_id),
        "X-Content-Type-Options": "nosniff",
        # What agents made is data: a browser that opens it all the same runs nothing of it.
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, no-cache",
    }


def mismatch(announced: str | None, digest: str) -> ApiError:
    """The refusal of content that is not what was announced."""
    return ApiError(
        "digest_mismatch", f"the content's digest is {digest}, not {announced}",
        "nothing was kept: send the content again, or compute its digest again",
    )  # fmt: skip


def _too_large() -> ApiError:
    limit = limits.ARTIFACT_SIZE_BYTES_MAX
    return ApiError("too_large", f"an artifact has at most {limit} bytes", "split it into several artifacts", limit=limit)


def _invalid(path: str, message: str) -> ApiError:
    issue = Issue(path=path, message=message)
    return ApiError("invalid_request", f"{path}: {message}", "ask how far the upload is, and mend the request", issues=[issue])


_ONE = "/v1/artifacts/{artifactId}"

ENDPOINTS = [
    Endpoint("PUT", f"{_ONE}/content", put_content, ArtifactUpload, bytes, query=ContentQuery,
             status=202, tag="artifacts", also=((200, "The content is whole: the artifact is ready."),),
             errors=("upload_offset_conflict", "upload_busy", "artifact_ready", "digest_mismatch",
                     "too_large", "storage_full")),
    Endpoint("GET", f"{_ONE}/upload", upload_state, ArtifactUpload, tag="artifacts"),
    Endpoint("GET", f"{_ONE}/fetch", fetch, "*/*", query=FetchQuery, tag="artifacts",
             also=((206, "The range that was asked for."), (304, "The content is what the client has.")),
             errors=("artifact_pending", "range_not_satisfiable", "storage_full")),
]  # fmt: skip
