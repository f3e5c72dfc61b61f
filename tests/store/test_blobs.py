"""Blobs: named by their content, whole or absent, in bounded memory, the same in a directory and elsewhere."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from flakes.store.blob_errors import BlobError
from flakes.store.blobs import BlobRef, BlobStore

MIB = 1024 * 1024
BIG = bytes(range(256)) * (12 * MIB // 256) + b"tail"  # more than two parts of an upload

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["directory", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """A store in a directory, and one that is only reached through obstore, as the cloud's are."""
    return BlobStore.open(tmp_path / "blobs" if request.param == "directory" else "memory:///")


@pytest.fixture
def local(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "blobs")


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def path_of(tmp_path: Path, digest: str) -> Path:
    digits = digest.removeprefix("sha256:")
    return tmp_path / "blobs" / "sha256" / digits[:2] / digits[2:4] / digits


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def stream(content: bytes, piece_bytes: int = 100_000) -> AsyncIterator[bytes]:
    for at in range(0, len(content), piece_bytes):
        yield content[at : at + piece_bytes]


async def collect(blobs: BlobStore, digest: str, got: list[bytes]) -> None:
    async for piece in blobs.get(digest):
        got += [piece]  # what came before the failure stays visible


async def read(
    blobs: BlobStore, digest: str, start: int | None = None, end: int | None = None
) -> bytes:
    return b"".join([piece async for piece in blobs.get(digest, start, end)])


@pytest.mark.parametrize(
    "content", [b"", b"a", b"hello" * 1000, BIG], ids=["empty", "one", "small", "big"]
)
@pytest.mark.parametrize("streamed", [False, True], ids=["bytes", "stream"])
async def test_what_was_put_is_got(blobs: BlobStore, content: bytes, streamed: bool) -> None:
    ref = await blobs.put(stream(content) if streamed else content)
    assert ref == BlobRef(digest_of(content), len(content))
    assert await blobs.exists(ref.digest)
    assert await blobs.size(ref.digest) == len(content)
    assert await read(blobs, ref.digest) == content


async def test_parts(blobs: BlobStore) -> None:
    digest = (await blobs.put(stream(BIG))).digest
    for start, end in [
        (0, 10),
        (5, 5),
        (None, 7),
        (6 * MIB, None),
        (len(BIG) - 4, 10**12),
        (len(BIG), None),
    ]:
        assert await read(blobs, digest, start, end) == BIG[start:end], (start, end)
    for start, end in [(-1, 5), (9, 8), (len(BIG) + 1, None)]:
        with pytest.raises(BlobError) as caught:
            await read(blobs, digest, start, end)
        assert caught.value.code == "range_invalid"


async def test_a_read_comes_in_bounded_pieces(blobs: BlobStore) -> None:
    digest = (await blobs.put(stream(BIG))).digest
    sizes = [len(piece) async for piece in blobs.get(digest)]
    assert sum(sizes) == len(BIG)
    if blobs._root is not None:
        assert max(sizes) <= MIB


async def test_missing_and_malformed(blobs: BlobStore) -> None:
    missing = digest_of(b"never put")
    assert not await blobs.exists(missing)
    for call in (blobs.size(missing), read(blobs, missing)):
        with pytest.raises(BlobError) as caught:
            await call
        assert caught.value.code == "blob_missing"
    await blobs.delete(missing)
    for bad in (
        "",
        "sha256:",
        "sha256:" + "A" * 64,
        "sha256:../../etc/passwd",
        "md5:" + "0" * 64,
        missing + "\n",
    ):
        with pytest.raises(BlobError) as caught:
            await blobs.size(bad)
        assert caught.value.code == "digest_invalid"


async def test_delete(blobs: BlobStore) -> None:
    digest = (await blobs.put(b"short-lived")).digest
    await blobs.delete(digest)
    await blobs.delete(digest)
    assert not await blobs.exists(digest)


@pytest.mark.parametrize("content", [b"small", BIG], ids=["small", "big"])
async def test_another_digest_than_expected_is_refused_and_nothing_kept(
    tmp_path: Path, content: bytes
) -> None:
    blobs = BlobStore.open(tmp_path / "blobs")
    assert (await blobs.put(stream(content), digest_of(content))).digest == digest_of(content)
    await blobs.delete(digest_of(content))
    with pytest.raises(BlobError) as caught:
        await blobs.put(stream(content), digest_of(b"else"))
    assert caught.value.code == "digest_mismatch"
    assert files(tmp_path) == []


async def test_an_existing_digest_is_no_free_pass(blobs: BlobStore) -> None:
    known = (await blobs.put(stream(BIG))).digest
    with pytest.raises(BlobError) as caught:
        await blobs.put(stream(b"x" * len(BIG)), known)
    assert caught.value.code == "digest_mismatch"
    assert await blobs.put(stream(BIG), known) == BlobRef(known, len(BIG))


async def test_too_large(tmp_path: Path) -> None:
    blobs = BlobStore.open(tmp_path / "blobs", size_bytes_max=6 * MIB)
    for content in (BIG, stream(BIG), stream(b"x" * (6 * MIB + 1))):
        with pytest.raises(BlobError) as caught:
            await blobs.put(content)
        assert caught.value.code == "too_large"
    with pytest.raises(BlobError) as caught:
        await blobs.put(b"four", size_bytes_max=3)
    assert caught.value.code == "too_large"
    assert files(tmp_path) == []
    assert (await blobs.put(stream(b"x" * (6 * MIB)))).size_bytes == 6 * MIB


async def test_a_stream_that_ends_too_much_is_cut_off_early(tmp_path: Path) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += MIB
            yield b"x" * MIB

    with pytest.raises(BlobError):
        await BlobStore.open(tmp_path / "blobs", size_bytes_max=8 * MIB).put(endless())
    assert sent <= 10 * MIB


async def test_identical_content_is_stored_once(tmp_path: Path, local: BlobStore) -> None:
    ref = await local.put(BIG)
    before = path_of(tmp_path, ref.digest).stat()
    assert await local.put(stream(BIG)) == ref
    assert await local.put(BIG, ref.digest) == ref
    assert path_of(tmp_path, ref.digest).stat().st_ino == before.st_ino
    assert len(files(tmp_path)) == 1


async def test_racing_puts_of_one_content(tmp_path: Path, local: BlobStore) -> None:
    refs: list[BlobRef] = []

    async def put() -> None:
        refs.append(await local.put(stream(BIG)))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(put)
    assert refs == [BlobRef(digest_of(BIG), len(BIG))] * 5
    assert len(files(tmp_path)) == 1
    assert await read(local, refs[0].digest) == BIG


async def test_a_failing_stream_is_told_as_it_is(tmp_path: Path, blobs: BlobStore) -> None:
    class SenderGoneError(OSError):
        pass

    for good_bytes in (10, 8 * MIB):

        async def failing(good_bytes: int = good_bytes) -> AsyncIterator[bytes]:
            async for piece in stream(b"x" * good_bytes, MIB):
                yield piece
            raise SenderGoneError("sender")

        with pytest.raises(SenderGoneError):
            await blobs.put(failing())
    assert files(tmp_path) == []


async def test_a_cancelled_put_leaves_nothing(tmp_path: Path, local: BlobStore) -> None:
    async with anyio.create_task_group() as group:

        async def stalling() -> AsyncIterator[bytes]:
            async for piece in stream(b"x" * 20 * MIB, MIB):
                yield piece
            group.cancel_scope.cancel()
            await anyio.sleep_forever()

        group.start_soon(local.put, stalling())
    with anyio.fail_after(5):
        while files(tmp_path):
            await anyio.sleep(0.01)


async def test_damage_is_noticed_before_the_last_piece(tmp_path: Path, local: BlobStore) -> None:
    for content in (b"short", BIG):
        digest = (await local.put(content)).digest
        path = path_of(tmp_path, digest)
        path.write_bytes(content[:-1] + b"!")
        got: list[bytes] = []
        with pytest.raises(BlobError) as caught:
            await collect(local, digest, got)
        assert caught.value.code == "blob_corrupt"
        assert len(b"".join(got)) < len(content)


async def test_a_truncated_blob_is_replaced_by_the_next_put(
    tmp_path: Path, local: BlobStore
) -> None:
    digest = (await local.put(b"content")).digest
    path_of(tmp_path, digest).write_bytes(b"")
    await local.put(b"content")
    assert await read(local, digest) == b"content"


async def test_the_directory_is_private_and_its_layout_is_known(
    tmp_path: Path, local: BlobStore
) -> None:
    ref = await local.put(b"x")
    assert path_of(tmp_path, ref.digest).read_bytes() == b"x"
    assert stat.S_IMODE((tmp_path / "blobs").stat().st_mode) == 0o700
    again = BlobStore.open(f"file://{tmp_path}/blobs")
    assert await read(again, ref.digest) == b"x"


async def test_unfinished_uploads_are_swept_by_age(tmp_path: Path, local: BlobStore) -> None:
    for name in ("0123", "0123#1"):
        (tmp_path / "blobs" / "uploads" / name).write_bytes(b"left")
    kept = (await local.put(b"kept")).digest
    now = datetime.now(UTC)
    assert await local.sweep_uploads(now - timedelta(hours=1)) == 0
    assert await local.sweep_uploads(now + timedelta(hours=1)) == 2
    assert files(tmp_path) == [path_of(tmp_path, kept)]
    memory = BlobStore.open("memory:///")
    await memory._store.put_async("uploads/left", b"left")
    assert await memory.sweep_uploads(now + timedelta(hours=1)) == 1


async def test_what_put_returns_is_synchronised_with_the_disk(
    tmp_path: Path, local: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watched_fsync(descriptor: int) -> None:
        order.append(
            os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(tmp_path / "blobs"))
        )
        fsync(descriptor)

    def watched_rename(self: Path, target: Path) -> Path:
        order.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    for content in (b"small", BIG):
        order.clear()
        digits = (await local.put(stream(content))).digest.removeprefix("sha256:")
        assert order[0].startswith("/uploads/")
        shard = f"/sha256/{digits[:2]}"
        assert order[1:] == ["rename", f"{shard}/{digits[2:4]}", shard, "/sha256", ""]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=7m", "none", disk]
    if os.geteuid() != 0 or subprocess.run(command).returncode != 0:
        pytest.skip("this machine does not let us mount a small file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


async def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path) -> None:
    blobs = BlobStore.open(small_disk / "blobs")
    kept = await blobs.put(b"x" * 4 * MIB)
    for content in (b"y" * 4 * MIB, stream(BIG)):
        with pytest.raises(BlobError) as caught:
            await blobs.put(content)
        assert caught.value.code == "disk_full"
        assert caught.value.fix
    assert len(files(small_disk)) == 1
    assert await read(blobs, kept.digest) == b"x" * 4 * MIB


def test_a_store_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for location in (tmp_path / "file" / "blobs", "nonsense://somewhere"):
        with pytest.raises(BlobError) as caught:
            BlobStore.open(location)
        assert caught.value.code == "store_unavailable"


def test_memory_stays_bounded_however_large_the_blob(tmp_path: Path) -> None:
    code = """
        import anyio, resource, sys
        from flakes.store.blobs import BlobStore

        async def content(count):
            for number in range(count):
                yield number.to_bytes(4, "big") * 65536

        async def main():
            blobs = BlobStore.open(sys.argv[1])
            await blobs.put(content(40))
            before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            ref = await blobs.put(content(600))
            async for piece in blobs.get(ref.digest):
                pass
            grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
            print(ref.size_bytes, grown_kib)

        anyio.run(main)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path / "blobs"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    size_bytes, grown_kib = map(int, done.stdout.split())
    assert size_bytes == 600 * 256 * 1024
    assert grown_kib < 64 * 1024
