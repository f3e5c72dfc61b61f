"""Unfinished uploads: appended to by one at a time, durable where they say so, the same in a directory and elsewhere."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import anyio
import pytest

from flakes.store.blob_errors import BlobError
from flakes.store.blobs import BlobRef, BlobStore
from flakes.store.uploads import Upload, Uploads, upload_of

MIB = 1024 * 1024

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["directory", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "blobs" if request.param == "directory" else "memory:///")


@pytest.fixture
def uploads(blobs: BlobStore) -> Uploads:
    return Uploads(blobs)


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


async def append(uploads: Uploads, upload: Upload, content: bytes) -> Upload:
    async with uploads.writing(upload) as writer:
        for at in range(0, len(content), 100_000):
            await writer.write(content[at : at + 100_000])
        key = await writer.sync()
    parts = upload.parts if key is None else (*upload.parts, key)
    return Upload(upload.name, upload.received_bytes + len(content), parts)


async def settle(uploads: Uploads, upload: Upload) -> BlobRef:
    async with uploads.writing(upload) as writer:
        ref = await writer.ref()
        await writer.settle(ref)
    return ref


async def read(blobs: BlobStore, digest: str) -> bytes:
    return b"".join([piece async for piece in blobs.get(digest)])


FRESH = upload_of("artifact_1", "a", 0, ())


@pytest.mark.parametrize("sizes", [[], [1], [3 * MIB, 5, 2 * MIB + 1]])
async def test_what_was_appended_becomes_the_blob(
    blobs: BlobStore, uploads: Uploads, sizes: list[int]
) -> None:
    parts = [os.urandom(size) for size in sizes]
    upload = FRESH
    for part in parts:
        upload = await append(uploads, upload, part)
        assert uploads.reached(upload) == upload.received_bytes
    whole = b"".join(parts)
    assert await settle(uploads, upload) == BlobRef(digest_of(whole), len(whole))
    assert await read(blobs, digest_of(whole)) == whole
    assert await uploads.names() == []


async def test_another_process_goes_on(blobs: BlobStore, uploads: Uploads) -> None:
    upload = await append(uploads, FRESH, b"one ")
    upload = await append(Uploads(blobs), upload, b"two")
    for reader in (Uploads(blobs), uploads):
        async with reader.writing(upload) as writer:
            assert await writer.ref() == BlobRef(digest_of(b"one two"), 7)


async def test_what_nobody_recorded_is_no_content(blobs: BlobStore, uploads: Uploads) -> None:
    recorded = await append(uploads, FRESH, b"kept")
    await append(uploads, recorded, b" and written, but not recorded")
    upload = await append(uploads, recorded, b"!")
    assert await settle(uploads, upload) == BlobRef(digest_of(b"kept!"), 5)


async def test_a_retreat_forgets_and_frees(blobs: BlobStore, uploads: Uploads) -> None:
    first = await append(uploads, FRESH, b"first")
    second = await append(uploads, first, b"second")
    async with uploads.writing(second) as writer:
        await writer.write(b"third")
        await writer.retreat(first.received_bytes)
    if blobs.directory is not None:
        assert (blobs.directory / "partial" / FRESH.name).stat().st_size == 5
    else:
        assert await blobs.object_keys("partial") == list(first.parts)
    assert await settle(uploads, await append(uploads, first, b"!")) == BlobRef(digest_of(b"first!"), 6)


async def test_content_that_is_there_is_not_stored_again(blobs: BlobStore, uploads: Uploads) -> None:
    await blobs.put(b"known")
    assert await settle(uploads, await append(uploads, FRESH, b"known")) == BlobRef(digest_of(b"known"), 5)
    assert await uploads.names() == []
    assert await read(blobs, digest_of(b"known")) == b"known"


async def test_a_newer_writer_ends_the_older_one(uploads: Uploads) -> None:
    started, told = anyio.Event(), []

    async def older() -> None:
        try:
            async with uploads.writing(FRESH) as writer:
                await writer.write(b"x" * 3 * MIB)
                started.set()
                await anyio.sleep_forever()
        except BlobError as error:
            told.append(error.code)

    async with anyio.create_task_group() as group:
        group.start_soon(older)
        await started.wait()
        upload = await append(uploads, FRESH, b"newer")
    assert told == ["upload_busy"]
    assert (await settle(uploads, upload)).digest == digest_of(b"newer")


async def test_other_processes_are_kept_out_of_a_directory(tmp_path: Path) -> None:
    blobs = BlobStore.open(tmp_path)
    async with Uploads(blobs).writing(FRESH) as writer:
        await writer.write(b"mine")
        with pytest.raises(BlobError) as caught:
            async with Uploads(blobs).writing(FRESH):
                pass
        assert caught.value.code == "upload_busy"
        await writer.sync()
    async with Uploads(blobs).writing(Upload(FRESH.name, 4)) as writer:
        assert (await writer.ref()).digest == digest_of(b"mine")


async def test_removal_takes_unrecorded_parts_too(blobs: BlobStore, uploads: Uploads) -> None:
    recorded = await append(uploads, FRESH, b"one")
    await append(uploads, recorded, b"two")
    other = upload_of("artifact_2", "b", 0, ())
    await append(uploads, other, b"kept")
    assert sorted(await uploads.names()) == [FRESH.name, other.name]
    await uploads.remove(FRESH.name)
    assert await uploads.names() == [other.name]
    await uploads.discard(FRESH)
    await uploads.remove(FRESH.name)


async def test_the_offset_follows_a_file_that_became_shorter(tmp_path: Path) -> None:
    uploads = Uploads(BlobStore.open(tmp_path))
    upload = await append(uploads, FRESH, b"0123456789")
    os.truncate(tmp_path / "partial" / upload.name, 6)
    assert uploads.reached(upload) == 6
    (tmp_path / "partial" / upload.name).unlink()
    assert uploads.reached(upload) == 0


async def test_room_is_looked_at_beforehand(tmp_path: Path) -> None:
    uploads = Uploads(BlobStore.open(tmp_path))
    uploads.require_room(1)
    with pytest.raises(BlobError) as caught:
        uploads.require_room(2**60)
    assert caught.value.code == "disk_full"
