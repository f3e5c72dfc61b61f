"""Journals of harnesses: rows in order, large entries as blobs.

A request that arrives twice finds its entries there and adds nothing; other entries at their place are a
conflict. Appends to one journal come one after the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from flakes.core import limits
from flakes.store.database import Connection, Query, row, rows, run
from flakes.wire.errors import ApiError

PAGE_ENTRIES = 5_000
PAGE_BYTES = 4 * limits.MIB

_LOCK = Query("select pg_advisory_xact_lock(hashtextextended(%(task_id)s, 7))")

_LENGTH = Query("select coalesce(max(position) + 1, 0) from harness_journals where task_id = %(task_id)s")

_THERE = Query("""
    select position, body, digest from harness_journals
    where task_id = %(task_id)s and position >= %(at)s and position < %(end)s order by position""")

_ADD = Query("""
    insert into harness_journals (task_id, position, body, digest, size_bytes)
    select %(task_id)s, u.* from unnest(
        %(positions)s::integer[], %(bodies)s::text[], %(digests)s::text[], %(sizes)s::integer[]) as u""")

_PAGE = Query("""
    select body, digest, size_bytes, position from (
        select position, body, digest, size_bytes,
               sum(size_bytes) over (order by position) - size_bytes as before
        from (
            select * from harness_journals where task_id = %(task_id)s and position >= %(after)s
            order by position limit %(limit)s
        ) entries
    ) summed
    where before < %(size_bytes)s order by position""")


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry: its text, or the digest of the blob that holds it."""

    body: str | None
    digest: str | None
    size_bytes: int


def stored(entry: str) -> Stored:
    """How an entry is kept; raises `ApiError` (`too_large`)."""
    content = entry.encode()
    if len(content) > limits.JOURNAL_ENTRY_BYTES_MAX:
        raise ApiError(
            "too_large", f"the entry has {len(content)} bytes, more than {limits.JOURNAL_ENTRY_BYTES_MAX}",
            "leave large things in outputs", limit=limits.JOURNAL_ENTRY_BYTES_MAX,
        )  # fmt: skip
    if len(content) <= limits.JOURNAL_INLINE_BYTES_MAX and "\0" not in entry:
        return Stored(entry, None, len(content))
    return Stored(None, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


async def append(conn: Connection, task_id: str, at: int, entries: Sequence[Stored]) -> int:
    """The new length. Raises `ApiError` (`journal_conflict`, `limit_exceeded`)."""
    await run(conn, _LOCK, {"task_id": task_id})
    found = await row(conn, _LENGTH, {"task_id": task_id})
    length: int = found[0] if found else 0
    end = at + len(entries)
    there = await rows(conn, _THERE, {"task_id": task_id, "at": at, "end": end}) if at < length else []
    differs = any((body, digest) != (entries[n - at].body, entries[n - at].digest) for n, body, digest in there)
    if at > length or differs:
        raise ApiError(
            "journal_conflict", "the journal holds something else there" if differs else f"the journal ends at {length}",
            "another process of the task has written it; end this one", length=length,
        )  # fmt: skip
    if end > limits.JOURNAL_ENTRIES_MAX:
        raise ApiError(
            "limit_exceeded", f"the journal would have {end} entries, more than {limits.JOURNAL_ENTRIES_MAX}",
            "let children be harnesses of their own", limit=limits.JOURNAL_ENTRIES_MAX,
        )  # fmt: skip
    new = entries[len(there) :]
    if new:
        await run(conn, _ADD, {
            "task_id": task_id, "positions": list(range(at + len(there), end)),
            "bodies": [each.body for each in new], "digests": [each.digest for each in new],
            "sizes": [each.size_bytes for each in new],
        })  # fmt: skip
    return max(length, end)


async def page(conn: Connection, task_id: str, after: int) -> tuple[list[Stored], bool]:
    """Entries from a position on, as many as fit into an answer, and whether there are more. Where one is missing
    it ends, and says that there are more: nobody goes on with a part."""
    found = await rows(conn, _PAGE, {
        "task_id": task_id, "after": after, "limit": PAGE_ENTRIES, "size_bytes": PAGE_BYTES,
    })  # fmt: skip
    found = [each for place, each in enumerate(found, after) if each[3] == place]
    length = await row(conn, _LENGTH, {"task_id": task_id})
    return [Stored(*fields[:3]) for fields in found], after + len(found) < (length[0] if length else 0)
