"""What is kept of a transcript that outgrows its limit: all of its beginning, then what people and the sandbox say.

A transcript is appended to and never rewritten, so what is over the limit is dropped as it comes: first what the
agent says and does with its native records, and an eighth further on everything. In the place of what is dropped
first stands a `notice`, which is in both forms; entries keep their order, and cursors stay what they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from flakes.store.database import Connection, Query, rows, run
from flakes.wire.codec import encode
from flakes.wire.sandbox_stream import TranscriptChunk
from flakes.wire.transcripts import EntryBody

SLACK_PART: Final = 8
KEPT: Final = frozenset({"prompt", "steer", "session", "turn", "question", "decision", "notice"})

_SIZES = Query("""
    select assignment_id, size_bytes, dropped_entries from transcript_sizes
    where assignment_id = any(%(assignment_ids)s)""")

_GROW = Query("""
    insert into transcript_sizes as s (assignment_id, size_bytes, dropped_entries)
    select * from unnest(%(assignment_ids)s::text[], %(sizes)s::bigint[], %(dropped)s::bigint[])
    on conflict (assignment_id) do update set size_bytes = s.size_bytes + excluded.size_bytes,
        dropped_entries = s.dropped_entries + excluded.dropped_entries""")


@dataclass(frozen=True, slots=True)
class Fitted:
    """What is stored of a chunk: its entries as JSON, and how many were dropped."""

    assignment_id: str
    first_entry: int
    entries: str
    dropped: int


async def fitted(
    conn: Connection, chunks: Sequence[TranscriptChunk], limit: int
) -> list[Fitted]:
    """The chunks as they are stored, in their order; `count` those that were."""
    found = await rows(conn, _SIZES, {"assignment_ids": list({c.assignment_id for c in chunks})})
    sums = {assignment_id: (size, dropped) for assignment_id, size, dropped in found}
    fits: list[Fitted] = []
    for chunk in chunks:
        size, dropped = sums.get(chunk.assignment_id, (0, 0))
        entries = chunk.entries if size < limit else _kept(chunk, size, dropped, limit)
        fit = Fitted(
            chunk.assignment_id, chunk.first_entry, encode(entries).decode(),
            0 if entries is chunk.entries else max(1, len(chunk.entries) - len(entries)),
        )  # fmt: skip
        sums[chunk.assignment_id] = (size + len(fit.entries), dropped + fit.dropped)
        fits.append(fit)
    return fits


async def count(conn: Connection, fits: Sequence[Fitted]) -> None:
    """Add what was stored and dropped to the sums of the attempts."""
    sizes, dropped = Counter[str](), Counter[str]()
    for fit in fits:
        sizes[fit.assignment_id] += len(fit.entries)
        dropped[fit.assignment_id] += fit.dropped
    ids = sorted(sizes)
    if ids:
        params = {"sizes": [sizes[i] for i in ids], "dropped": [dropped[i] for i in ids]}
        await run(conn, _GROW, params | {"assignment_ids": ids})


def _kept(chunk: TranscriptChunk, size: int, dropped: int, limit: int) -> list[EntryBody]:
    found: list[EntryBody] = []
    if size < limit + limit // SLACK_PART:
        found = [msgspec.structs.replace(e, raw=None, more=False) for e in chunk.entries if e.kind in KEPT]
    if not dropped and chunk.entries:
        text = (
            f"the transcript of this attempt is over {limit / 2**20:,.0f} MiB: from here on what the agent says"
            " and does is not kept"
        )
        data = {"level": "warning", "text": text}
        raw = encode({"flakes": "truncated", **data}).decode()
        found.insert(0, EntryBody(at_ms=chunk.entries[0].at_ms, kind="notice", data=data, raw=raw))
    return found[: len(chunk.entries)]
