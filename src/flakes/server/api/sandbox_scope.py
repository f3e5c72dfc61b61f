"""Routes that only a sandbox may call, with its own credential: large offers, and bytes in and out.

A sandbox may write any blob (content-addressed, so it can only add what it names), and read those that an
offer of its own names as input.
"""

from __future__ import annotations

from starlette.responses import Response, StreamingResponse

from flakes.core import limits
from flakes.server.routing import Answer, Call, Endpoint
from flakes.store import garbage, offers
from flakes.store.blob_errors import BlobError
from flakes.wire.errors import ApiError, not_found
from flakes.wire.sandbox_stream import Assignment
from flakes.wire.tasks import Blob


async def assignment(call: Call) -> Assignment:
    """Fetch an offer that was too large for a frame."""
    async with call.plane.database.connection() as conn:
        found = await offers.load(conn, [call.path["assignmentId"]])
    own = [a for sandbox_id, a in found if sandbox_id == call.path["sandboxId"]]
    if not own:
        raise ApiError("stale_assignment", "the assignment is not this sandbox's, or not live", "forget it")
    return own[0]


async def put_blob(call: Call) -> Answer:
    """Store bytes under their digest."""
    digest = call.path["digest"]
    try:
        async with call.plane.database.connection() as conn:
            await garbage.note(conn, digest, garbage.OUTPUT_KEEP_S)
        stored = await call.plane.blobs.put(
            call.request.stream(), expected_digest=digest, size_bytes_max=limits.OUTPUT_SIZE_BYTES_MAX
        )
    except BlobError as error:
        raise refused(error) from error
    return Answer(Blob(digest=stored.digest, size_bytes=stored.size_bytes), 201)


async def get_blob(call: Call) -> Response:
    """Fetch the bytes of an input."""
    digest = call.path["digest"]
    async with call.plane.database.connection() as conn:
        visible = await offers.names_input(conn, call.path["sandboxId"], digest)
    if not visible:
        raise not_found("blob")
    try:
        size = await call.plane.blobs.size(digest)
        headers = {"Content-Length": str(size)}
        return StreamingResponse(call.plane.blobs.get(digest), 200, headers, "application/octet-stream")
    except BlobError as error:
        raise refused(error) from error


def refused(error: BlobError) -> ApiError:
    """A refusal of the blob store as one of the API."""
    if error.code in ("digest_mismatch", "too_large", "upload_busy"):
        return ApiError(error.code, error.message, error.fix)
    if error.code in ("disk_full", "store_denied", "store_unavailable"):
        return ApiError("storage_full", error.message, error.fix)
    if error.code == "blob_missing":
        return not_found("blob")
    return ApiError("invalid_request", error.message, error.fix)


_BLOB = "/v1/sandboxes/{sandboxId}/blobs/{digest}"

ENDPOINTS = [
    Endpoint("GET", "/v1/sandboxes/{sandboxId}/assignments/{assignmentId}", assignment, Assignment,
             family="sandbox", tag="sandbox scope", errors=("stale_assignment",)),
    Endpoint("PUT", _BLOB, put_blob, Blob, bytes, status=201, family="sandbox", tag="sandbox scope",
             errors=("digest_mismatch", "too_large", "storage_full")),
    Endpoint("GET", _BLOB, get_blob, bytes, family="sandbox", tag="sandbox scope"),
]  # fmt: skip
