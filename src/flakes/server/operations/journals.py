"""Operations on the journal of the asking task."""

from __future__ import annotations

from typing import Final

from flakes.server.api import artifact_content
from flakes.server.api.artifacts import refused
from flakes.server.operations.act import Act, Handler
from flakes.store import garbage, journals
from flakes.store.blob_errors import BlobError
from flakes.wire.journals import JournalEntries, JournalLength


async def read(act: Act) -> JournalEntries:
    async with act.fenced() as (conn, holder):
        found, more = await journals.page(conn, holder.task_id, act.body.after)
    entries = [
        each.body if each.digest is None
        else (await artifact_content.piece(act.plane, each.digest, 0, each.size_bytes)).decode()
        for each in found
    ]  # fmt: skip
    return JournalEntries(entries=[each or "" for each in entries], more=more)


async def append(act: Act) -> JournalLength:
    """Large entries are in the blob store before their rows are written."""
    kept = [journals.stored(each) for each in act.body.entries]
    if any(each.digest is not None for each in kept):
        async with act.fenced():
            pass  # nothing is stored for somebody who may not
        await _put(act, kept)
    async with act.fenced() as (conn, holder):
        return JournalLength(length=await journals.append(conn, holder.task_id, act.body.at, kept))


async def _put(act: Act, kept: list[journals.Stored]) -> None:
    for entry, each in zip(act.body.entries, kept, strict=True):
        if each.digest is None:
            continue
        async with act.plane.outside.connection() as conn:
            await garbage.note(conn, each.digest)
        try:
            await act.plane.blobs.put(entry.encode(), each.digest)
        except BlobError as error:
            raise refused(error) from error


HANDLERS: Final[dict[str, Handler]] = {"journal.read": read, "journal.append": append}
