"""The blob store: bytes by the digest of their content.

A blob's name is `sha256:<hex>`, its key `sha256/ab/cd/<hex>`. So identical content is stored once, a blob never changes,
and whoever reads one can tell whether it is whole. The bytes lie in a directory, or in S3, Google Cloud Storage or Azure,
through obstore; PostgreSQL keeps digest, size and type elsewhere.

Invariants. A key below `sha256/` appears at once and whole: content of unknown digest is uploaded under `uploads/` and
moved when its digest is known. In a directory a blob that `put` returned survives a power cut: its bytes reach the disk
before its name does. Memory is bounded, whatever the size of a blob.

This module refuses to know who refers to a blob: deleting what is still in use is its caller's mistake, and a collector
of garbage has to leave alone what was put a moment ago.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
from anyio import to_thread
from obstore import exceptions
from obstore.store import LocalStore, ObjectStore, from_url

from flakes.store.blob_errors import BlobError, telling, told

SIZE_BYTES_MAX = 5 * 1024**3
"""The largest blob that `put` takes unless told otherwise. S3 copies no larger object in one request."""
_PART_BYTES = 5 * 1024**2  # S3 takes no smaller part of a multipart upload
_PARTS_AT_ONCE = 2
_READ_BYTES = 512 * 1024
_HASH_INLINE_BYTES = 64 * 1024  # above it a thread hashes, so that the event loop goes on
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class BlobRef:
    """What a blob is known by: `digest` is `sha256:` and 64 lower-case hex digits."""

    digest: str
    size_bytes: int


class BlobStore:
    """One place where blobs are. Made by `open`; holds no connection that needs closing."""

    def __init__(
        self, store: ObjectStore, root: Path | None, size_bytes_max: int, kind: str
    ) -> None:
        self._store = store
        self._root = root  # the directory, where blobs are in one
        self._size_bytes_max = size_bytes_max
        self.kind = kind
        """`directory`, or the scheme of the store's URL."""

    @property
    def directory(self) -> Path | None:
        """Where the blobs are, when that is a directory."""
        return self._root

    @classmethod
    def open(
        cls,
        location: str | Path,
        *,
        size_bytes_max: int = SIZE_BYTES_MAX,
        options: Mapping[str, Any] | None = None,
    ) -> BlobStore:
        """A store in a directory (a path or `file://` URL) or at a URL that obstore knows (`s3://`, `gs://`, `az://`).

        A missing directory is made, closed to other users. `options` are obstore's, such as credentials and endpoints;
        without them the environment's usual variables count. Raises BlobError.
        """
        with telling(f"The blob store {location} cannot be opened"):
            if isinstance(location, str) and "://" in location and not location.startswith("file:"):
                try:
                    kind = location.partition(":")[0].lower()
                    store = from_url(location, **dict(options or {}))
                    return cls(store, None, size_bytes_max, kind)
                except ValueError as failure:
                    raise BlobError(
                        "store_unavailable",
                        f"{location} is not the address of a blob store: {failure}",
                        "Give a directory, or a URL such as s3://bucket/prefix.",
                    ) from failure
            text = str(location)
            root = Path(
                unquote(urlsplit(text).path) if text.startswith("file:") else text
            ).absolute()
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            (root / "uploads").mkdir(mode=0o700, exist_ok=True)
            return cls(LocalStore(root), root, size_bytes_max, "directory")

    async def put(
        self,
        content: bytes | bytearray | memoryview | AsyncIterable[bytes],
        expected_digest: str | None = None,
        *,
        size_bytes_max: int | None = None,
    ) -> BlobRef:
        """Store content and return its digest and size. Idempotent: content that is there is not written again.

        Raises `digest_mismatch` where `expected_digest` is another, `too_large` beyond `size_bytes_max` (the store's
        own limit by default), and whatever the stream itself raises; nothing is then stored.
        """
        if expected_digest is not None:
            _key(expected_digest)
        intake = _Intake(
            expected_digest, min(self._size_bytes_max, size_bytes_max or self._size_bytes_max)
        )
        if not isinstance(content, AsyncIterable):
            await intake.take(content)
            return await self._put_small(bytes(content), intake.finish())
        pieces = aiter(content)
        held: list[bytes] = []
        while intake.size_bytes <= _PART_BYTES:
            piece = await anext(pieces, None)
            if piece is None:
                return await self._put_small(b"".join(held), intake.finish())
            await intake.take(piece)
            held.append(piece)
        if expected_digest is not None and await self.exists(expected_digest):
            # Whoever claims to bring a blob has to bring it; but it need not be written again.
            async for piece in pieces:
                await intake.take(piece)
            ref = intake.finish()
            if await self._has(ref):
                return ref
            raise BlobError(
                "blob_corrupt",
                f"Blob {ref.digest} is stored with another size than its content has.",
                "Delete the blob and put it again.",
            )
        return await self._put_large(held, pieces, intake)

    async def get(
        self, digest: str, start: int | None = None, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes of a blob from `start` up to, not including, `end`, in pieces of a few hundred KiB.

        A whole blob is verified while it is read: `blob_corrupt` is raised in place of its last piece where the content
        is not the digest's. A part is not verified. Raises `blob_missing`, and `range_invalid` where the part does not
        begin within the blob; an `end` beyond it means its end.
        """
        size_bytes = await self.size(digest)
        first, last = start or 0, size_bytes if end is None else min(end, size_bytes)
        if first < 0 or first > size_bytes or last < first:
            raise BlobError(
                "range_invalid",
                f"Blob {digest} has {size_bytes} bytes and no part from {start} to {end}.",
                "Ask for a part that lies within the blob.",
            )
        whole = (first, last) == (0, size_bytes)
        hasher = hashlib.sha256()
        held: bytes | None = None
        with telling(f"Blob {digest} cannot be read", digest):
            if first < last:
                seen = hasher if whole else None
                async for piece in self._pieces(_key(digest), first, last, seen):
                    if held is not None:
                        yield held
                    held = piece
        if whole and f"sha256:{hasher.hexdigest()}" != digest:
            raise BlobError(
                "blob_corrupt",
                f"The stored content of blob {digest} is not what it was.",
                "Restore the blob store from a backup, or produce the blob again.",
            )
        if held is not None:
            yield held

    async def _pieces(self, key: str, first: int, last: int, hasher: Any) -> AsyncIterator[bytes]:
        """The bytes between, seen by `hasher` if there is one; the next piece is read while one is used."""
        if self._root is None:
            response = await self._store.get_async(key, options={"range": (first, last)})
            async for part in response.stream(min_chunk_size=_READ_BYTES):
                piece = bytes(part)
                if hasher is not None:
                    await _hash(hasher, piece)
                yield piece
            return
        descriptor = os.open(self._root / key, os.O_RDONLY | os.O_CLOEXEC)

        def read(at: int) -> bytes:
            piece = os.pread(descriptor, min(_READ_BYTES, last - at), at)
            if hasher is not None:
                hasher.update(piece)
            return piece

        reading = asyncio.ensure_future(asyncio.to_thread(read, first))
        try:
            while piece := await asyncio.shield(reading):
                first += len(piece)
                if first < last:
                    reading = asyncio.ensure_future(asyncio.to_thread(read, first))
                yield piece
                if first >= last:
                    return
        finally:
            # A thread may still be reading: the descriptor is closed when it is done.
            reading.add_done_callback(functools.partial(_close, descriptor))

    async def size(self, digest: str) -> int:
        """The size in bytes. Raises `blob_missing`, `digest_invalid`."""
        with telling(f"Blob {digest} cannot be read", digest):
            meta = await self._store.head_async(_key(digest))
        return meta["size"]

    async def exists(self, digest: str) -> bool:
        try:
            await self.size(digest)
        except BlobError as failure:
            if failure.code == "blob_missing":
                return False
            raise
        return True

    async def delete(self, digest: str) -> None:
        """Remove a blob; one that is not there is as good as removed."""
        with contextlib.suppress(FileNotFoundError):
            await self._delete(_key(digest))

    async def adopt(self, path: Path, ref: BlobRef) -> None:
        """Make a finished file of the store's own directory the blob that it is; the file is gone then.

        The caller has computed the digest. In a directory only.
        """
        assert self._root is not None
        with telling(f"Blob {ref.digest} cannot be stored"):
            if await self._has(ref):
                path.unlink()
            else:
                await self._settle(str(path.relative_to(self._root)), ref)

    async def put_object(self, key: str, content: bytes) -> None:
        """Store what is no blob, under a key of the caller's own outside `sha256/` and `uploads/`."""
        with telling(f"{key} cannot be stored"):
            await self._store.put_async(key, content)

    async def get_object(self, key: str) -> AsyncIterator[bytes]:
        """What `put_object` stored, in pieces."""
        with telling(f"{key} cannot be read"):
            response = await self._store.get_async(key)
            async for piece in response.stream(min_chunk_size=_READ_BYTES):
                yield bytes(piece)

    async def delete_object(self, key: str) -> None:
        """Remove what `put_object` stored, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            await self._delete(key)

    async def object_keys(self, prefix: str) -> list[str]:
        """The keys below a prefix."""
        with telling(f"{prefix} cannot be listed"):
            return [
                meta["path"] async for batch in self._store.list_async(prefix) for meta in batch
            ]

    async def sweep_uploads(self, before: datetime) -> int:
        """Remove uploads that were begun before this time and never finished; how many there were."""
        stale: list[str] = []
        with telling("Unfinished uploads cannot be listed"):
            if self._root is not None:
                # obstore does not list the files that it is still writing, so the directory itself is read.
                for path in list((self._root / "uploads").iterdir()):
                    with contextlib.suppress(FileNotFoundError):
                        if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before:
                            path.unlink()
                            stale.append(path.name)
                return len(stale)
            async for batch in self._store.list_async("uploads"):
                stale += [meta["path"] for meta in batch if meta["last_modified"] < before]
        for key in stale:
            with contextlib.suppress(FileNotFoundError):
                await self._delete(key)
        return len(stale)

    async def _put_small(self, content: bytes, ref: BlobRef) -> BlobRef:
        if await self._has(ref):
            return ref
        with telling(f"Blob {ref.digest} cannot be stored"):
            if self._root is None:
                await self._store.put_async(_key(ref.digest), content)
                return ref
            async with self._upload() as upload:
                await self._store.put_async(upload, content)
                await self._settle(upload, ref)
        return ref

    async def _put_large(
        self, held: list[bytes], pieces: AsyncIterator[bytes], intake: _Intake
    ) -> BlobRef:
        failures: list[BaseException] = []

        async def everything() -> AsyncIterator[bytes]:
            while held:
                yield held.pop(0)
            try:
                async for piece in pieces:
                    await intake.take(piece)
                    yield piece
            except BaseException as failure:
                failures.append(failure)
                raise

        async with self._upload() as upload:
            try:
                with telling("A blob cannot be stored"):
                    await self._store.put_async(
                        upload, everything(), chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
                    )
            except (BlobError, exceptions.BaseError):
                if failures:  # the stream's own failure is told as it is, not as one of the store's
                    raise failures[0] from None
                raise
            ref = intake.finish()
            if not await self._has(ref):
                with telling(f"Blob {ref.digest} cannot be stored"):
                    await self._settle(upload, ref)
        return ref

    @contextlib.asynccontextmanager
    async def _upload(self) -> AsyncIterator[str]:
        """A key of our own that is gone afterwards, whatever happens."""
        key = f"uploads/{secrets.token_hex(16)}"
        try:
            yield key
        finally:
            with anyio.CancelScope(shield=True), contextlib.suppress(FileNotFoundError, BlobError):
                await self._delete(key)
            if self._root is not None:
                (self._root / f"{key}#1").unlink(
                    missing_ok=True
                )  # obstore's own name while it writes

    async def _settle(self, upload: str, ref: BlobRef) -> None:
        """Give an upload its name."""
        key = _key(ref.digest)
        if self._root is None:
            await self._store.copy_async(upload, key)
        else:
            await to_thread.run_sync(_settle_file, self._root, upload, key)

    async def _has(self, ref: BlobRef) -> bool:
        """Is the blob there, as far as its size can tell?"""
        try:
            return await self.size(ref.digest) == ref.size_bytes
        except BlobError as failure:
            if failure.code == "blob_missing":
                return False
            raise

    async def _delete(self, key: str) -> None:
        try:
            await self._store.delete_async(key)
        except FileNotFoundError:
            raise
        except (exceptions.BaseError, OSError) as failure:
            raise told(failure, f"{key} cannot be deleted", None) from failure


class _Intake:
    """Counts and hashes what comes in, and refuses what is too much or something else."""

    def __init__(self, expected_digest: str | None, size_bytes_max: int) -> None:
        self.size_bytes = 0
        self._expected_digest = expected_digest
        self._size_bytes_max = size_bytes_max
        self._hasher = hashlib.sha256()

    async def take(self, piece: bytes | bytearray | memoryview) -> None:
        self.size_bytes += memoryview(piece).nbytes
        if self.size_bytes > self._size_bytes_max:
            raise BlobError(
                "too_large",
                f"The content is larger than {self._size_bytes_max} bytes.",
                "Send less, or split it into several artifacts.",
            )
        await _hash(self._hasher, piece)

    def finish(self) -> BlobRef:
        digest = f"sha256:{self._hasher.hexdigest()}"
        if self._expected_digest not in (None, digest):
            raise BlobError(
                "digest_mismatch",
                f"The content's digest is {digest}, not {self._expected_digest}.",
                "The content was damaged or changed on its way: send it again, or compute its digest again.",
            )
        return BlobRef(digest, self.size_bytes)


async def _hash(hasher: Any, piece: bytes | bytearray | memoryview) -> None:
    if len(piece) <= _HASH_INLINE_BYTES:
        hasher.update(piece)
    else:
        await to_thread.run_sync(hasher.update, piece)


def check_digest(digest: str) -> None:
    """Raise `digest_invalid` for what is not the name of a blob."""
    if not _DIGEST.fullmatch(digest):
        raise BlobError(
            "digest_invalid",
            f"{digest[:100]!r} is not a digest.",
            "A digest is sha256: and 64 lower-case hexadecimal digits.",
        )


def _key(digest: str) -> str:
    check_digest(digest)
    digits = digest.removeprefix("sha256:")
    return f"sha256/{digits[:2]}/{digits[2:4]}/{digits}"


def _close(descriptor: int, reading: asyncio.Future[bytes]) -> None:
    if not reading.cancelled():
        reading.exception()  # looked at: nobody wants the piece any more
    os.close(descriptor)


def _settle_file(root: Path, upload: str, key: str) -> None:
    """Rename an uploaded file to its key, durably: its bytes first, then the names that lead to it.

    Every directory on the way is synchronised, also one that was there: another process may just have made it.
    """
    final = root / key
    final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sync(root / upload)
    (root / upload).rename(final)
    for directory in (final.parent, *final.parent.parents):
        _sync(directory)
        if directory == root:
            break


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
