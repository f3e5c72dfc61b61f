"""Operations on artifacts: a task stores files for its run, and reads those of its run and of its inputs.

Bytes come and go in pieces, each a request of its own that may be sent again: a piece that arrived is known
by its offset, so nothing is written twice, and what a lost connection cost is one piece.
"""

from __future__ import annotations

from typing import Final

from flakes.core import limits
from flakes.server.api import artifact_content
from flakes.server.operations.act import Act, Handler
from flakes.store import artifacts, input_artifacts
from flakes.store.database import Connection
from flakes.store.fences import Holder
from flakes.wire.artifacts import Artifact, ArtifactPiece, ArtifactUpload
from flakes.wire.errors import ApiError, not_found


async def create(act: Act) -> Artifact:
    """Announce it; its place is the run and the task of the assignment, whatever the request says."""
    post = act.body.post()
    artifacts.check_metadata(post)
    # With the lock of the run, because the row refers to it.
    async with act.locked() as (conn, holder, _):
        place = (holder.run_id, holder.task_id)
        return await artifacts.create(conn, holder.owner_id, post, place, None)


async def append(act: Act) -> ArtifactUpload:
    """Add a piece to an artifact that this task announced; the last one makes it ready."""
    async with act.fenced() as (conn, holder):
        found = await artifacts.get(conn, holder.owner_id, act.body.artifact_id)
        if found.task_id != holder.task_id:
            raise not_found("artifact")
    return await artifact_content.append(
        act.plane, holder.owner_id, act.body.artifact_id, act.body.offset, act.body.bytes_base64
    )


async def read(act: Act) -> ArtifactPiece:
    """A piece of an artifact of the run, or of one that the task names as input."""
    body = act.body
    async with act.fenced() as (conn, holder):
        found = await artifacts.get(conn, holder.owner_id, body.artifact_id)
        if not await _may_read(conn, holder, found):
            raise not_found("artifact")
    if found.state != "ready" or found.digest is None or found.size_bytes is None:
        raise ApiError("artifact_pending", "the content has not arrived yet", "wait until it is whole")
    if body.offset > found.size_bytes:
        raise ApiError(
            "range_not_satisfiable", f"the content has {found.size_bytes} bytes", "begin within them",
            sizeBytes=found.size_bytes,
        )  # fmt: skip
    end = min(body.offset + limits.ARTIFACT_PIECE_BYTES_MAX, found.size_bytes)
    return ArtifactPiece(
        artifact_id=found.artifact_id, name=found.name, digest=found.digest,
        size_bytes=found.size_bytes, offset=body.offset,
        bytes_base64=await artifact_content.piece(act.plane, found.digest, body.offset, end),
    )  # fmt: skip


async def _may_read(conn: Connection, holder: Holder, found: Artifact) -> bool:
    if found.run_id == holder.run_id:
        return True
    inputs = await input_artifacts.of_tasks(conn, [holder.task_id])
    return any(each.artifact_id == found.artifact_id for each in inputs.get(holder.task_id, ()))


HANDLERS: Final[dict[str, Handler]] = {
    "artifact.create": create, "artifact.append": append, "artifact.read": read,
}  # fmt: skip
