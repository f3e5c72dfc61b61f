"""Garbage: a blob is deleted when nothing refers to it, never while something does or is about to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flakes.store import accounts, artifacts, garbage, workspaces
from flakes.store.blob_errors import BlobError
from flakes.store.blobs import BlobStore
from flakes.store.database import Database, Query
from flakes.store.workspaces import Place
from flakes.wire.artifacts import ArtifactPost
from flakes.wire.workspaces import WorkspacePack, WorkspacePost

pytestmark = pytest.mark.anyio

DUE = Query("update blob_notes set due_at = now()")
NOTES = Query("select digest from blob_notes order by digest")

NAMING_COLUMNS = {
    ("artifacts", "digest"): "a reference",
    ("workspaces", "pack_digests"): "a reference",
    ("task_results", "result"): "a reference: outputs",
    ("harness_journals", "digest"): "a reference",
    ("blob_notes", "digest"): "the notes themselves",
    ("waits", "digest"): "no blob: of a request to wait",
    ("rounds", "digest"): "no blob: of a request for a round",
    ("runs", "definition_digest"): "no blob: of the run's definition",
    ("run_graphs", "digest"): "no blob: of a graph's definition",
    ("permissions", "asked_digest"): "no blob: of a question",
    ("task_spawns", "digest"): "no blob: of a request for children",
    ("idempotency_keys", "key_digest"): "no blob: of a key",
    ("idempotency_keys", "body_digest"): "no blob: of a request",
    ("rate_limits", "key_digest"): "no blob: of what is limited",
}


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    db = Database(database, size=4)
    await db.open()
    yield db
    await db.close()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "blobs")


async def collect(db: Database, blobs: BlobStore) -> tuple[int, int]:
    async with db.transaction() as conn:
        return await garbage.collect(conn, blobs)


async def stored(db: Database, blobs: BlobStore, content: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    async with db.connection() as conn:
        await garbage.note(conn, digest)
    await blobs.put(content, digest)
    return digest


async def artifact(db: Database, blobs: BlobStore, owner_id: str, content: bytes) -> str:
    digest = await stored(db, blobs, content)
    post = ArtifactPost(kind="file")
    from flakes.store.blobs import BlobRef

    async with db.transaction() as conn:
        made = await artifacts.create(conn, owner_id, post, (None, None), BlobRef(digest, len(content)))
    return made.artifact_id


MADE = Query("select workspace_id from workspaces where owner_id = %(owner_id)s")
AGED = Query("update workspaces set used_at = now() - interval '8 days' where owner_id = %(owner_id)s")


@pytest.fixture
async def owner_id(opened: Database) -> str:
    async with opened.transaction() as conn:
        return await accounts.create_user(conn, "owner")


async def test_a_note_is_not_looked_at_before_it_is_due(opened: Database, blobs: BlobStore) -> None:
    digest = await stored(opened, blobs, b"x")
    assert await collect(opened, blobs) == (0, 0)
    await opened.run(DUE)
    assert await collect(opened, blobs) == (1, 1)
    assert not await blobs.exists(digest)
    assert await collect(opened, blobs) == (0, 0)


async def test_a_longer_note_wins(opened: Database, blobs: BlobStore) -> None:
    digest = await stored(opened, blobs, b"x")
    async with opened.connection() as conn:
        await garbage.note(conn, digest, -10)
    assert await collect(opened, blobs) == (0, 0)


async def test_what_an_artifact_names_stays_until_the_last_goes(
    opened: Database, blobs: BlobStore, owner_id: str
) -> None:
    first, second = [await artifact(opened, blobs, owner_id, b"same") for _ in range(2)]
    digest = "sha256:" + hashlib.sha256(b"same").hexdigest()
    await opened.run(DUE)
    assert await collect(opened, blobs) == (1, 0)
    assert await opened.rows(NOTES) == []
    async with opened.transaction() as conn:
        await artifacts.delete(conn, owner_id, first)
    assert await collect(opened, blobs) == (1, 0)
    async with opened.transaction() as conn:
        await artifacts.delete(conn, owner_id, second)
    assert await collect(opened, blobs) == (1, 1)
    assert not await blobs.exists(digest)


async def test_an_announced_digest_holds_nothing(
    opened: Database, blobs: BlobStore, owner_id: str
) -> None:
    digest = await stored(opened, blobs, b"x")
    async with opened.transaction() as conn:
        await artifacts.create(conn, owner_id, ArtifactPost(kind="file", digest=digest), (None, None), None)
    await opened.run(DUE)
    assert await collect(opened, blobs) == (1, 1)


async def test_results_hold_their_long_outputs(opened: Database, blobs: BlobStore) -> None:
    digest = await stored(opened, blobs, b"long")
    short = await stored(opened, blobs, b"short")
    insert = Query("""
        insert into task_results (task_id, assignment_id, result) values ('task_1', 'assignment_1',
            json_build_object('outputs', json_build_object(
                'long', json_build_object('kind', 'text', 'digest', %(digest)s::text),
                'short', json_build_object('kind', 'text', 'digest', %(short)s::text, 'text', 'short'))))""")
    await opened.run(insert, {"digest": digest, "short": short})
    await opened.run(Query("insert into task_results (task_id, assignment_id, result) values ('task_2', 'a', '{}')"))
    await opened.run(DUE)
    assert await collect(opened, blobs) == (2, 1)
    assert await blobs.exists(digest)
    assert not await blobs.exists(short)
    await opened.run(Query("""update task_results set result = '{"text": "again"}' where task_id = 'task_1'"""))
    assert await opened.rows(NOTES) == [(digest,)]
    await opened.run(DUE)
    assert await collect(opened, blobs) == (1, 1)


async def test_results_are_found_by_their_index(opened: Database) -> None:
    await opened.run(Query("""
        insert into task_results (task_id, assignment_id, result)
        select 'task_' || n, 'a', json_build_object('outputs', json_build_object('o', json_build_object('digest', 'd' || n)))
        from generate_series(1, 20000) n"""))  # fmt: skip
    await opened.run(Query("analyze task_results"))
    plan = await opened.rows(
        Query("explain " + garbage._REFERRED), {"digests": ["d1", "d2", "d19999", "none"]}
    )
    text = "\n".join(r[0] for r in plan)
    assert "task_results_blobs" in text, text


async def test_whoever_notes_a_blob_that_is_being_deleted_waits_and_puts_it_anew(
    opened: Database, blobs: BlobStore, owner_id: str
) -> None:
    digest = await stored(opened, blobs, b"same")
    await opened.run(DUE)
    async with opened.transaction() as conn:
        assert await garbage.collect(conn, blobs) == (1, 1)
        # Not committed yet: the blob is gone, and its name is held.
        again = asyncio.create_task(artifact(opened, blobs, owner_id, b"same"))
        done, _ = await asyncio.wait([again], timeout=0.3)
        assert not done
    await again
    assert await blobs.exists(digest)
    await opened.run(DUE)
    assert await collect(opened, blobs) == (1, 0)
    assert await blobs.exists(digest)


async def test_creation_and_collection_race(
    opened: Database, blobs: BlobStore, owner_id: str
) -> None:
    """Whatever comes first, a ready artifact has its content."""
    for _ in range(30):
        first = await artifact(opened, blobs, owner_id, b"contested")
        async with opened.transaction() as conn:
            await artifacts.delete(conn, owner_id, first)
        await opened.run(DUE)
        made, _ = await asyncio.gather(
            artifact(opened, blobs, owner_id, b"contested"), collect(opened, blobs)
        )
        async with opened.connection() as conn:
            found = await artifacts.get(conn, owner_id, made)
        assert found.digest is not None
        assert await blobs.exists(found.digest)
        async with opened.transaction() as conn:
            await artifacts.delete(conn, owner_id, made)


async def test_only_names_of_blobs_are_noted(opened: Database) -> None:
    async with opened.connection() as conn:
        with pytest.raises(BlobError):
            await garbage.note(conn, "../../etc/passwd")
    assert await opened.rows(NOTES) == []


async def test_every_column_that_may_name_a_blob_is_known_to_the_collector(opened: Database) -> None:
    """A new one fails here: add it to `garbage._REFERRED` (and a trigger that notes what it loses), then here."""
    found = await opened.rows(Query("""
        select table_name, column_name from information_schema.columns
        where table_schema = 'public' and column_name ~ '(digest|blob|content)' order by 1, 2"""))  # fmt: skip
    unknown = [pair for pair in found if pair not in NAMING_COLUMNS]
    assert not unknown


async def test_packs_stay_while_any_workspace_needs_them(
    opened: Database, blobs: BlobStore, owner_id: str
) -> None:
    digest = await stored(opened, blobs, b"pack")
    packs = [WorkspacePack(digest=digest, size_bytes=4)]
    for commit in ("a" * 40, "b" * 40):
        post = WorkspacePost(commit=commit, tree="c" * 40, packs=packs)
        async with opened.transaction() as conn:
            await workspaces.create(conn, owner_id, post, Place(), None)
    await opened.run(DUE)
    assert await collect(opened, blobs) == (1, 0)
    async with opened.transaction() as conn:
        assert await workspaces.forget_unbound(conn, workspaces.UNBOUND_KEPT_S, 10) == 0
    await opened.run(AGED, {"owner_id": owner_id})
    async with opened.transaction() as conn:
        assert await workspaces.forget_unbound(conn, workspaces.UNBOUND_KEPT_S, 1) == 1
    assert await collect(opened, blobs) == (1, 0)
    async with opened.transaction() as conn:
        assert await workspaces.forget_unbound(conn, workspaces.UNBOUND_KEPT_S, 10) == 1
    assert await opened.rows(MADE, {"owner_id": owner_id}) == []
    assert await collect(opened, blobs) == (1, 1)
    assert not await blobs.exists(digest)
