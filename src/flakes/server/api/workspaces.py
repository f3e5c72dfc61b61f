"""Routes of workspaces: handles and their packs, for people and for sandboxes; and what a run has selected.

The bytes of packs come as artifacts (resumable) or, from sandboxes, as blobs; a handle that names them takes
them over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import msgspec
from starlette.responses import Response, StreamingResponse

from flakes.core import limits
from flakes.server import byte_ranges, diffs
from flakes.server.api.sandbox_scope import refused
from flakes.server.handling import refusal
from flakes.server.plane import Plane
from flakes.server.predictions import LOOKED_AT_MAX
from flakes.server.routing import Answer, Call, Endpoint, PageLength, bounded
from flakes.store import garbage, merging, overlaps, promotions, runs, workspaces
from flakes.store.blob_errors import BlobError
from flakes.store.ledger import Ledger
from flakes.store.workspaces import Place
from flakes.wire.codec import Issue
from flakes.wire.errors import ApiError, not_found
from flakes.wire.tasks import Blob
from flakes.wire.workspaces import (
    PACK_KIND,
    SELECTED,
    PredictedConflict,
    Promoted,
    PromotionPost,
    RunWorkspaces,
    WorkspaceDiff,
    WorkspaceHandle,
    WorkspacePost,
)

_LOOKS_AT_ONCE = 16


class RunWorkspacesQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of a run's workspaces."""

    limit: PageLength = limits.PAGE_LENGTH_DEFAULT
    cursor: str | None = None
    task_id: str | None = None
    conflicts: bool = False
    """Say which of the run's results would conflict. Needs git on the server."""


async def create(call: Call) -> Answer:
    """Store a handle whose packs are there, or read the same one; `workspace_packs_missing` says which are not."""
    post: WorkspacePost = call.body
    plane = call.plane
    workspaces.check_place(post)
    await _require_packs(plane, call.owner_id, post, ())
    async with plane.database.transaction() as conn:
        run_id = None if post.run_id is None else await runs.resolve(conn, call.owner_id, post.run_id)
        ledger = None if run_id is None else await Ledger.lock(conn, [run_id])
        if ledger is not None and run_id not in ledger.runs:
            raise not_found("run")
        workspace_id, fresh = await workspaces.create(
            conn, call.owner_id, post, Place(run_id), ledger
        )
        if ledger is not None:
            await ledger.flush(conn)
        handle = await workspaces.get(conn, call.owner_id, workspace_id)
    plane.wrote()
    return Answer(handle, 201 if fresh else 200)


async def get(call: Call) -> WorkspaceHandle:
    """Read a handle, with the paths that it changes."""
    async with call.plane.database.connection() as conn:
        return await workspaces.get(conn, call.owner_id, call.path["workspaceId"])


class DiffQuery(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of a diff."""

    base: str | None = None
    """A handle to compare with; by default the one that it was made from."""
    limit: PageLength = limits.PAGE_LENGTH_DEFAULT
    cursor: str | None = None
    patches: bool = True
    renames: bool = False
    """What was moved is one file with its old path, and not one that is removed and one that is added."""


async def diff(call: Call) -> WorkspaceDiff:
    """Compare a handle with another one, or with the one that it was made from: a page of paths and patches."""
    query: DiffQuery = call.query
    limit = bounded(query.limit)
    start = query.cursor or "0"
    if not (start.isascii() and start.isdigit() and len(start) < 10):
        raise ApiError("invalid_request", "the cursor is not one of a diff", "leave it out, or take nextCursor", issues=[Issue(path="cursor", message="is not one of a diff")])
    async with call.plane.database.connection() as conn:
        new = await workspaces.get(conn, call.owner_id, call.path["workspaceId"])
        base_id = query.base or new.base_workspace_id
        if base_id is None:
            raise ApiError("workspace_none", "the workspace was made from no other one", "name one to compare with: ?base=")
        base = await workspaces.get(conn, call.owner_id, base_id)
    try:
        return await diffs.page(
            call.plane.bench, base, new, start=int(start), limit=limit, patches=query.patches,
            renames=query.renames,
        )  # fmt: skip
    except BlobError as error:
        raise refused(error) from error


async def pack(call: Call) -> Response:
    """Fetch the bytes of one of a handle's packs, or one range of them."""
    async with call.plane.database.connection() as conn:
        handle = await workspaces.get(conn, call.owner_id, call.path["workspaceId"])
    if all(each.digest != call.path["digest"] for each in handle.packs):
        raise not_found("pack")
    return await _bytes(call, call.path["digest"])


async def of_run(call: Call) -> RunWorkspaces:
    """List what a run has selected, the handles that its tasks stored (newest first), and its promotions."""
    query: RunWorkspacesQuery = call.query
    limit = bounded(query.limit)
    async with call.plane.database.connection() as conn:
        run_id = await runs.resolve(conn, call.owner_id, call.path["run"])
        found = await workspaces.of_run(
            conn, run_id, task_id=query.task_id, before=query.cursor, limit=limit
        )
        merges = await merging.of_run(conn, run_id, [each.workspace_id for each in found])
        refs = await promotions.refs(conn, run_id)
        shown = RunWorkspaces(
            merges=merges, refs=refs, workspaces=found, overlaps=await overlaps.of_run(conn, run_id),
            promotions=await promotions.history(conn, run_id),
            next_cursor=found[-1].workspace_id if len(found) == limit else None,
        )  # fmt: skip
        if not query.conflicts:
            return shown
        selected = next((ref.workspace_id for ref in refs if ref.name == SELECTED), None)
        waiting = await merging.not_in(conn, run_id, LOOKED_AT_MAX)
        handles = await workspaces.some(conn, [each.workspace_id for each in waiting] + [selected or ""])
    predicted: list[PredictedConflict] = []
    if selected is not None:
        try:
            predicted = await call.plane.predictions.of(handles[selected], waiting, handles)
        except BlobError as error:
            raise refused(error) from error
    return msgspec.structs.replace(shown, predicted=predicted)


async def promote(call: Call) -> Promoted:
    """Move a ref of a run to a handle that was made from what the ref is now."""
    post: PromotionPost = call.body
    async with call.plane.database.transaction() as conn:
        run_id = await runs.resolve(conn, call.owner_id, call.path["run"])
        ledger = await Ledger.lock(conn, [run_id])
        if run_id not in ledger.runs:
            raise not_found("run")
        done = await promotions.promote(
            conn, ledger, call.owner_id, run_id, post, user_id=call.identity.subject_id
        )
        await ledger.flush(conn)
    call.plane.wrote()
    return done


async def create_for_attempt(call: Call) -> Answer:
    """Store a handle of a task: anything while the attempt is live, its candidate also afterwards."""
    post: WorkspacePost = call.body
    plane, sandbox_id = call.plane, call.path["sandboxId"]
    assignment_id = call.path["assignmentId"]
    async with plane.database.connection() as conn:
        place = await workspaces.of_attempt(conn, call.owner_id, sandbox_id, assignment_id, post)
    brought = [each.digest for each in post.packs]
    await _require_packs(plane, call.owner_id, post, brought)
    async with plane.database.transaction() as conn:
        assert place.run_id is not None
        ledger = await Ledger.lock(conn, [place.run_id])
        # Looked at again now that the run is locked: the attempt may have ended meanwhile.
        place = await workspaces.of_attempt(conn, call.owner_id, sandbox_id, assignment_id, post)
        workspace_id, fresh = await workspaces.create(conn, call.owner_id, post, place, ledger)
        await ledger.flush(conn)
        handle = await workspaces.get(conn, call.owner_id, workspace_id)
    plane.wrote()
    return Answer(handle, 201 if fresh else 200)


async def get_for_sandbox(call: Call) -> WorkspaceHandle:
    """Read a handle that a live attempt of the sandbox has to do with."""
    async with call.plane.database.connection() as conn:
        return await workspaces.for_sandbox(
            conn, call.path["sandboxId"], call.path["workspaceId"]
        )


async def put_pack(call: Call) -> Answer:
    """Store a pack under its digest, up to 2 GiB."""
    digest = call.path["digest"]
    try:
        async with call.plane.database.connection() as conn:
            await garbage.note(conn, digest, garbage.OUTPUT_KEEP_S)
        stored = await call.plane.blobs.put(
            call.request.stream(), expected_digest=digest,
            size_bytes_max=limits.WORKSPACE_PACK_SIZE_BYTES_MAX,
        )  # fmt: skip
    except BlobError as error:
        raise refused(error) from error
    return Answer(Blob(digest=stored.digest, size_bytes=stored.size_bytes), 201)


async def get_pack(call: Call) -> Response:
    """Fetch a pack that a live attempt of the sandbox has to do with, or one range of it."""
    digest = call.path["digest"]
    async with call.plane.database.connection() as conn:
        if not await workspaces.pack_for_sandbox(conn, call.path["sandboxId"], digest):
            raise not_found("pack")
    return await _bytes(call, digest)


async def _require_packs(
    plane: Plane, owner_id: str, post: WorkspacePost, brought: Collection[str]
) -> None:
    """Every pack is stored with its size and was brought by this account; and stays for a while."""
    digests = list(dict.fromkeys(each.digest for each in post.packs))
    known = set(brought)
    async with plane.outside.connection() as conn:
        if not known:
            known = await workspaces.known_packs(conn, owner_id, digests)
        # Noted before they are looked at: what is there now is not collected before the handle names it.
        for digest in digests:
            await garbage.note(conn, digest)
    gate = asyncio.Semaphore(_LOOKS_AT_ONCE)

    async def there(digest: str, size_bytes: int) -> bool:
        async with gate:
            try:
                return digest in known and await plane.blobs.size(digest) == size_bytes
            except BlobError as error:
                if error.code == "blob_missing":
                    return False
                raise refused(error) from error

    found = await asyncio.gather(*(there(each.digest, each.size_bytes) for each in post.packs))
    missing = [each.digest for each, is_there in zip(post.packs, found, strict=True) if not is_there]
    if missing:
        raise ApiError(
            "workspace_packs_missing", f"{len(missing)} of {len(post.packs)} packs are not stored",
            f"upload them as artifacts of the kind {PACK_KIND}, and store the handle again",
            missing=missing,
        )  # fmt: skip


async def _bytes(call: Call, digest: str) -> Response:
    plane = call.plane
    try:
        size_bytes = await plane.blobs.size(digest)
        headers = {"Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
        try:
            wanted = byte_ranges.requested(call.request.headers.get("range"), size_bytes)
        except byte_ranges.UnsatisfiableError:
            error = ApiError("range_not_satisfiable", f"the pack has {size_bytes} bytes", "ask for a range that begins within them", sizeBytes=size_bytes)
            answer = refusal(error)
            answer.headers["Content-Range"] = f"bytes */{size_bytes}"
            return answer
        start, end = wanted or (0, size_bytes)
        headers["Content-Length"] = str(end - start)
        if wanted is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
        return StreamingResponse(
            plane.blobs.get(digest, *(wanted or ())), 200 if wanted is None else 206, headers,
            "application/octet-stream",
        )  # fmt: skip
    except BlobError as error:
        raise refused(error) from error


_ONE = "/v1/workspaces/{workspaceId}"
_SANDBOX = "/v1/sandboxes/{sandboxId}"
_PARTIAL = ((206, "The range that was asked for."),)
_STORING = ("workspace_packs_missing", "workspace_unrelated", "storage_full", "not_found")

ENDPOINTS = [
    Endpoint("POST", "/v1/workspaces", create, WorkspaceHandle, WorkspacePost, creates=True,
             tag="workspaces", errors=_STORING),
    Endpoint("GET", _ONE, get, WorkspaceHandle, tag="workspaces"),
    Endpoint("GET", f"{_ONE}/diff", diff, WorkspaceDiff, query=DiffQuery, tag="workspaces",
             errors=("workspace_none", "workspace_pack_damaged", "git_missing", "limit_exceeded", "storage_full")),
    Endpoint("GET", f"{_ONE}/packs/{{digest}}", pack, bytes, tag="workspaces", also=_PARTIAL,
             errors=("range_not_satisfiable", "storage_full")),
    Endpoint("GET", "/v1/runs/{run}/workspaces", of_run, RunWorkspaces, query=RunWorkspacesQuery,
             tag="workspaces", errors=("workspace_pack_damaged", "git_missing", "storage_full")),
    Endpoint("POST", "/v1/runs/{run}/promotions", promote, Promoted, PromotionPost, tag="workspaces",
             errors=("workspace_base_stale", "workspace_path_refused", "workspace_unrelated")),
    Endpoint("POST", f"{_SANDBOX}/assignments/{{assignmentId}}/workspaces", create_for_attempt,
             WorkspaceHandle, WorkspacePost, creates=True, family="sandbox", tag="sandbox scope",
             errors=(*_STORING, "stale_assignment")),
    Endpoint("GET", f"{_SANDBOX}/workspaces/{{workspaceId}}", get_for_sandbox, WorkspaceHandle,
             family="sandbox", tag="sandbox scope"),
    Endpoint("PUT", f"{_SANDBOX}/packs/{{digest}}", put_pack, Blob, bytes, status=201,
             family="sandbox", tag="sandbox scope", errors=("digest_mismatch", "too_large", "storage_full")),
    Endpoint("GET", f"{_SANDBOX}/packs/{{digest}}", get_pack, bytes, family="sandbox",
             tag="sandbox scope", also=_PARTIAL, errors=("range_not_satisfiable", "storage_full")),
]  # fmt: skip
