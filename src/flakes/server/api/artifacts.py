"""Routes of artifacts, and of the outputs of a run. Their bytes: `artifact_content`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from functools import partial

import msgspec

from flakes.core import limits
from flakes.server.api import artifact_content
from flakes.server.api.sandbox_scope import refused
from flakes.server.plane import Plane
from flakes.server.routing import Answer, Call, Endpoint, Page, PageLength, bounded
from flakes.store import artifacts, garbage
from flakes.store.blob_errors import BlobError
from flakes.store.blobs import BlobRef
from flakes.wire.artifacts import (
    Artifact,
    ArtifactDeleted,
    ArtifactLocation,
    ArtifactPost,
    Artifacts,
    RunOutputs,
)
from flakes.wire.codec import Issue
from flakes.wire.errors import ApiError

LOOKS_AT_ONCE = 16


class ArtifactsQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of a run's artifacts."""

    limit: PageLength = limits.PAGE_LENGTH_DEFAULT
    cursor: str | None = None
    task_id: str | None = None


async def create(call: Call) -> Answer:
    """Create an artifact: with small content at once, else announced, and its content follows."""
    post: ArtifactPost = call.body
    plane = call.plane
    async with plane.database.connection() as conn:
        place = await artifacts.place_of(conn, call.owner_id, post)
    ref = None
    if post.bytes_base64 is not None:
        ref = await _checked(post, post.bytes_base64)
        async with plane.outside.connection() as conn:
            await garbage.note(conn, ref.digest)
        try:
            await plane.blobs.put(post.bytes_base64, ref.digest)
        except BlobError as error:
            raise refused(error) from error
    async with plane.database.transaction() as conn:
        artifact = await artifacts.create(conn, call.owner_id, post, place, ref)
    plane.wrote()
    return Answer((await located(plane, [artifact]))[0], 201)


async def get(call: Call) -> Artifact:
    """Read an artifact, without its bytes."""
    async with call.plane.database.connection() as conn:
        found = await artifacts.get(conn, call.owner_id, call.path["artifactId"])
    return (await located(call.plane, [found]))[0]


async def page(call: Call) -> Artifacts:
    """List artifacts, newest first."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found = await artifacts.page(conn, call.owner_id, before=call.query.cursor, limit=limit)
    return await _page(call.plane, found, limit)


async def of_run(call: Call) -> Artifacts:
    """List the artifacts of a run, or of one of its tasks, newest first."""
    query: ArtifactsQuery = call.query
    limit = bounded(query.limit)
    async with call.plane.database.connection() as conn:
        found = await artifacts.of_run(
            conn, call.owner_id, call.path["run"], task_id=query.task_id, before=query.cursor,
            limit=limit,
        )  # fmt: skip
    return await _page(call.plane, found, limit)


async def delete(call: Call) -> ArtifactDeleted:
    """Delete an artifact; its bytes go once nothing else refers to them."""
    plane, artifact_id = call.plane, call.path["artifactId"]
    async with plane.database.transaction() as conn:
        upload = await artifacts.delete(conn, call.owner_id, artifact_id)
    if upload is not None:
        await plane.after(partial(plane.uploads.discard, upload))
    plane.wrote()
    plane.garbage.set()
    return ArtifactDeleted(artifact_id=artifact_id)


async def outputs(call: Call) -> RunOutputs:
    """List what the ended tasks of a run left behind."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found = await artifacts.outputs(
            conn, call.owner_id, call.path["run"], after=call.query.cursor, limit=limit
        )
    cursor = f"{found[-1].task_id}/{found[-1].output_key}" if len(found) == limit else None
    return RunOutputs(outputs=found, next_cursor=cursor)


async def located(plane: Plane, found: Sequence[Artifact]) -> list[Artifact]:
    """The same artifacts, with the places where their content is."""
    gate = asyncio.Semaphore(LOOKS_AT_ONCE)

    async def locate(artifact: Artifact) -> Artifact:
        if artifact.state != "ready" or artifact.digest is None or artifact.size_bytes is None:
            return artifact
        async with gate:
            try:
                available = await plane.blobs.size(artifact.digest) == artifact.size_bytes
            except BlobError:
                available = False
        location = ArtifactLocation(
            location_id=artifact_content.LOCATION_ID, storage_kind=plane.blobs.kind,
            size_bytes=artifact.size_bytes, available=available,
        )  # fmt: skip
        return msgspec.structs.replace(artifact, locations=[location])

    return await asyncio.gather(*map(locate, found))


async def _page(plane: Plane, found: list[Artifact], limit: int) -> Artifacts:
    cursor = found[-1].artifact_id if len(found) == limit else None
    return Artifacts(artifacts=await located(plane, found), next_cursor=cursor)


async def _checked(post: ArtifactPost, content: bytes) -> BlobRef:
    """Size and digest of inline content, which must be what was announced."""
    if len(content) > limits.ARTIFACT_INLINE_BYTES_MAX:
        raise ApiError(
            "limit_exceeded", f"bytesBase64 holds {len(content)} bytes, the limit is {limits.ARTIFACT_INLINE_BYTES_MAX}",
            "create the artifact without bytes and upload its content (`flakes artifacts upload`)",
            limit=limits.ARTIFACT_INLINE_BYTES_MAX, size=len(content), path="bytesBase64",
        )  # fmt: skip
    if post.size_bytes not in (None, len(content)):
        issue = Issue(path="sizeBytes", message=f"the content has {len(content)} bytes")
        raise ApiError("invalid_request", f"sizeBytes is {post.size_bytes}, the content has {len(content)} bytes", "leave sizeBytes out, or send the whole content", issues=[issue])
    digest = "sha256:" + (await asyncio.to_thread(hashlib.sha256, content)).hexdigest()
    if post.digest not in (None, digest):
        raise artifact_content.mismatch(post.digest, digest)
    return BlobRef(digest, len(content))


_ONE = "/v1/artifacts/{artifactId}"

ENDPOINTS = [
    Endpoint("POST", "/v1/artifacts", create, Artifact, ArtifactPost, status=201, tag="artifacts",
             errors=("digest_mismatch", "limit_exceeded", "storage_full", "not_found")),
    Endpoint("GET", "/v1/artifacts", page, Artifacts, query=Page, tag="artifacts"),
    Endpoint("GET", _ONE, get, Artifact, tag="artifacts"),
    Endpoint("DELETE", _ONE, delete, ArtifactDeleted, tag="artifacts"),
    *artifact_content.ENDPOINTS,
    Endpoint("GET", "/v1/runs/{run}/artifacts", of_run, Artifacts, query=ArtifactsQuery, tag="artifacts"),
    Endpoint("GET", "/v1/runs/{run}/outputs", outputs, RunOutputs, query=Page, tag="artifacts"),
]  # fmt: skip
