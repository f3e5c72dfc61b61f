"""Which blobs nobody refers to any more.

The rule: a digest is noted before its blob is put (`note`), and by triggers when a row that refers to it
goes away. Once a note is due, one look decides: while anything refers to the blob the note is dropped, else
the blob is deleted with it. The look holds the note's row, so whoever notes the same digest meanwhile waits
and then puts the blob anew; nothing is deleted that a note says is about to be used.

A new column that names blobs belongs into `_REFERRED`; a test compares that with the schema.
"""

from __future__ import annotations

from flakes.store.blobs import BlobStore, check_digest
from flakes.store.database import Connection, Query, rows, run

PUT_KEEP_S = 3_600.0
"""How long a blob may wait for the row that refers to it."""
OUTPUT_KEEP_S = 7 * 24 * 3_600.0
"""The same for a task's output: its result may be held up in a sandbox that is cut off."""
BATCH = 100

NOTE = Query("""
    insert into blob_notes (digest, due_at)
    values (%(digest)s, now() + make_interval(secs => %(keep_s)s))
    on conflict (digest) do update set due_at = greatest(blob_notes.due_at, excluded.due_at)""")

_DUE = Query("""
    select digest from blob_notes where due_at <= now()
    order by due_at limit %(limit)s for update skip locked""")

_REFERRED = Query("""
    select digest from artifacts where digest = any(%(digests)s::text[]) and state = 'ready'
    union
    select d from workspaces w, unnest(w.pack_digests) d
    where w.pack_digests && %(digests)s::text[] and d = any(%(digests)s::text[])
    union
    select d.digest from task_results s, unnest(output_blobs(s.result)) d(digest)
    where (s.result -> 'outputs') is not null and output_blobs(s.result) && %(digests)s::text[]
      and d.digest = any(%(digests)s::text[])
    union
    select digest from harness_journals where digest = any(%(digests)s::text[])""")

_SEEN = Query("delete from blob_notes where digest = any(%(digests)s)")


async def note(conn: Connection, digest: str, keep_s: float = PUT_KEEP_S) -> None:
    """Before a blob is put: it is not garbage for so long, and looked at afterwards. In no transaction.

    Raises `BlobError` `digest_invalid`.
    """
    check_digest(digest)
    await run(conn, NOTE, {"digest": digest, "keep_s": keep_s})


async def collect(conn: Connection, blobs: BlobStore) -> tuple[int, int]:
    """Look at the notes that are due, at most a batch: notes seen, blobs deleted. In a transaction."""
    due = [r[0] for r in await rows(conn, _DUE, {"limit": BATCH})]
    if not due:
        return 0, 0
    referred = {r[0] for r in await rows(conn, _REFERRED, {"digests": due})}
    garbage = [digest for digest in due if digest not in referred]
    for digest in garbage:
        await blobs.delete(digest)
    await run(conn, _SEEN, {"digests": due})
    return len(due), len(garbage)
