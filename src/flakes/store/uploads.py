"""Unfinished uploads: the bytes of an artifact that arrived, while the rest is still to come.

In a directory an upload is one file under `partial/`, written in place and renamed to its digest at the
end, so no byte is copied. Elsewhere it is a row of objects, read once more and put as one blob. Its name
holds a generation: an upload that starts again from the beginning is another one, so nobody mixes the two.

Invariants. One writer at a time: a newer request for an upload ends the older one in this process, and a
file lock keeps other processes out. What `sync` returned for is durable. Bytes beyond the offset that the
caller has recorded are not content: the next writer cuts them off. A file that was renamed to a digest is
never written again, because the rename happens under the lock and writers look at the name after locking.

This module refuses to know the database: offsets and part keys are its caller's to keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import anyio

from flakes.store.blob_errors import BlobError, telling
from flakes.store.blobs import BlobRef, BlobStore

PREFIX: Final = "partial"
SEGMENT_BYTES: Final = 16 * 1024**2
"""How much may arrive before it is made durable, in a directory."""
PART_BYTES: Final = 8 * 1024**2
"""The same elsewhere; this much is held in memory."""
_WRITE_BYTES: Final = 1024**2
_HASHERS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Upload:
    """One unfinished upload, as its caller keeps it. `parts` are empty in a directory."""

    name: str
    received_bytes: int
    parts: tuple[str, ...] = ()


class Writer(Protocol):
    """The one who appends to an upload."""

    @property
    def unsynced_bytes(self) -> int:
        """What was written since the last `sync`."""
        ...

    async def write(self, piece: bytes) -> None: ...

    async def sync(self) -> str | None:
        """Make everything written durable; the key of the part that this made, if any."""
        ...

    async def ref(self) -> BlobRef:
        """Digest and size of everything up to the last `sync`; reads it again if it must."""
        ...

    async def settle(self, ref: BlobRef) -> None:
        """Make the whole the blob `ref`. Nothing may be unsynced."""
        ...

    async def retreat(self, offset: int) -> None:
        """Forget what lies beyond, which frees its space."""
        ...


@dataclass(slots=True)
class _Turn:
    scope: anyio.CancelScope
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Uploads:
    """The unfinished uploads of one blob store."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._turns: dict[str, _Turn] = {}
        # How far the digest of an upload is known here, so that a steady upload is not read again.
        self._hashers: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self.segment_bytes = PART_BYTES if blobs.directory is None else SEGMENT_BYTES

    def reached(self, upload: Upload) -> int:
        """The offset up to which the content is really there."""
        if self._blobs.directory is None:
            return upload.received_bytes
        try:
            return min(upload.received_bytes, self._path(upload.name).stat().st_size)
        except FileNotFoundError:
            return 0

    def require_room(self, size_bytes: int) -> None:
        """Refuse with `disk_full` what cannot fit."""
        directory = self._blobs.directory
        if directory is not None and size_bytes > shutil.disk_usage(directory).free:
            raise BlobError(
                "disk_full",
                f"There is no room for {size_bytes} more bytes where the blobs are.",
                "Free some space where the blob store is.",
            )

    @contextlib.asynccontextmanager
    async def writing(self, upload: Upload) -> AsyncIterator[Writer]:
        """Append to an upload, behind `received_bytes`. Raises `upload_busy` when another process does,
        and in a block that a newer request ends."""
        while (turn := self._turns.get(upload.name)) is not None:
            turn.scope.cancel()
            await turn.over.wait()
        turn = self._turns[upload.name] = _Turn(anyio.CancelScope())
        try:
            with turn.scope:
                async with self._writer(upload) as writer:
                    yield writer
        finally:
            del self._turns[upload.name]
            turn.over.set()
        if turn.scope.cancelled_caught:
            raise _busy("A newer request took this upload over.")

    async def discard(self, upload: Upload) -> None:
        """Remove an upload; one that is not there is as good as removed."""
        if self._blobs.directory is not None:
            with telling(f"Upload {upload.name} cannot be removed"):
                self._path(upload.name).unlink(missing_ok=True)
        for key in upload.parts:
            await self._blobs.delete_object(key)

    async def names(self) -> list[str]:
        """The names of everything that is stored here, in no order."""
        directory = self._blobs.directory
        if directory is not None:
            try:
                return [path.name for path in (directory / PREFIX).iterdir()]
            except FileNotFoundError:
                return []
        keys = await self._blobs.object_keys(PREFIX)
        return list({key.split("/")[1] for key in keys})

    async def remove(self, name: str) -> None:
        """Remove everything of that name, also what nobody recorded."""
        keys: list[str] = []
        if self._blobs.directory is None:
            keys = await self._blobs.object_keys(f"{PREFIX}/{name}")
        await self.discard(Upload(name, 0, tuple(keys)))

    @contextlib.asynccontextmanager
    async def _writer(self, upload: Upload) -> AsyncIterator[Writer]:
        hasher = self._hashers.get((upload.name, upload.received_bytes))
        hasher = hasher.copy() if hasher is not None else None
        if upload.received_bytes == 0:
            hasher = hashlib.sha256()
        if self._blobs.directory is None:
            yield _Parts(self._blobs, upload, hasher, self)
            return
        with telling(f"Upload {upload.name} cannot be written"):
            (self._blobs.directory / PREFIX).mkdir(mode=0o700, exist_ok=True)
            descriptor = _open(self._path(upload.name))
        writer = _File(self._blobs, upload, hasher, self, descriptor, self._path(upload.name))
        try:
            with telling(f"Upload {upload.name} cannot be written"):
                os.ftruncate(descriptor, upload.received_bytes)
            yield writer
        finally:
            with anyio.CancelScope(shield=True):
                await writer.rest()
            os.close(descriptor)  # which gives the lock back

    def remember(self, name: str, offset: int, hasher: Any) -> None:
        """Keep the digest's state at this offset; the caller goes on with its own copy."""
        self._hashers[name, offset] = hasher.copy()
        while len(self._hashers) > _HASHERS_MAX:
            self._hashers.popitem(last=False)

    def forget(self, name: str, offset: int) -> None:
        """Drop what `remember` kept."""
        self._hashers.pop((name, offset), None)

    def _path(self, name: str) -> Path:
        assert self._blobs.directory is not None
        assert "/" not in name
        return self._blobs.directory / PREFIX / name


class _File:
    """An upload as one file; the next mebibyte is received while the last one is written and hashed."""

    def __init__(
        self, blobs: BlobStore, upload: Upload, hasher: Any, uploads: Uploads, descriptor: int, path: Path
    ) -> None:  # fmt: skip
        self._blobs = blobs
        self._upload = upload
        self._hasher = hasher
        self._uploads = uploads
        self._descriptor = descriptor
        self._path = path
        self._offset = self._synced = upload.received_bytes
        self._held = bytearray()
        self._going: asyncio.Task[None] | None = None
        self.unsynced_bytes = 0

    async def write(self, piece: bytes) -> None:
        self._held += piece
        self.unsynced_bytes += len(piece)
        if len(self._held) >= _WRITE_BYTES:
            await self._flush()

    async def sync(self) -> None:
        await self._flush()
        await self._landed()
        with telling(f"Upload {self._upload.name} cannot be written"):
            await asyncio.to_thread(os.fdatasync, self._descriptor)
        self._uploads.forget(self._upload.name, self._synced)
        self._synced = self._offset
        self.unsynced_bytes = 0
        if self._hasher is not None:
            self._uploads.remember(self._upload.name, self._synced, self._hasher)

    async def ref(self) -> BlobRef:
        assert self.unsynced_bytes == 0
        if self._hasher is None:
            with telling(f"Upload {self._upload.name} cannot be read"):
                self._hasher = await asyncio.to_thread(_hash_file, self._path, self._offset)
        return BlobRef(f"sha256:{self._hasher.hexdigest()}", self._offset)

    async def settle(self, ref: BlobRef) -> None:
        await self._blobs.adopt(self._path, ref)
        self._uploads.forget(self._upload.name, self._synced)

    async def retreat(self, offset: int) -> None:
        await self.rest()
        self._held.clear()
        self.unsynced_bytes = 0
        self._uploads.forget(self._upload.name, self._synced)
        self._offset = self._synced = offset
        self._hasher = None
        os.ftruncate(self._descriptor, offset)

    async def rest(self) -> None:
        """Wait for the write that is under way, however it ends."""
        if self._going is not None:
            await asyncio.wait([self._going])

    async def _flush(self) -> None:
        await self._landed()
        if self._held:
            content, self._held = self._held, bytearray()
            self._going = asyncio.create_task(asyncio.to_thread(self._put, content, self._offset))
            self._offset += len(content)

    async def _landed(self) -> None:
        if self._going is not None:
            await self.rest()
            going, self._going = self._going, None
            with telling(f"Upload {self._upload.name} cannot be written"):
                going.result()

    def _put(self, content: bytearray, offset: int) -> None:
        with memoryview(content) as view:
            at = 0
            while at < len(view):
                at += os.pwrite(self._descriptor, view[at:], offset + at)
            if self._hasher is not None:
                self._hasher.update(view)


class _Parts:
    """An upload as a row of objects, for stores that cannot append."""

    def __init__(self, blobs: BlobStore, upload: Upload, hasher: Any, uploads: Uploads) -> None:
        self._blobs = blobs
        self._upload = upload
        self._hasher = hasher
        self._uploads = uploads
        self._offset = upload.received_bytes
        self._keys = list(upload.parts)
        self._held = bytearray()

    @property
    def unsynced_bytes(self) -> int:
        return len(self._held)

    async def write(self, piece: bytes) -> None:
        self._held += piece

    async def sync(self) -> str | None:
        if not self._held:
            return None
        content, self._held = bytes(self._held), bytearray()
        key = f"{PREFIX}/{self._upload.name}/{self._offset:013d}-{secrets.token_hex(8)}"
        await self._blobs.put_object(key, content)
        self._uploads.forget(self._upload.name, self._offset)
        self._offset += len(content)
        self._keys.append(key)
        if self._hasher is not None:
            await asyncio.to_thread(self._hasher.update, content)
            self._uploads.remember(self._upload.name, self._offset, self._hasher)
        return key

    async def ref(self) -> BlobRef:
        assert not self._held
        if self._hasher is None:
            hasher = hashlib.sha256()
            async for piece in self._content():
                await asyncio.to_thread(hasher.update, piece)
            self._hasher = hasher
        return BlobRef(f"sha256:{self._hasher.hexdigest()}", self._offset)

    async def settle(self, ref: BlobRef) -> None:
        await self._blobs.put(self._content(), ref.digest)
        self._uploads.forget(self._upload.name, self._offset)
        for key in self._keys:
            await self._blobs.delete_object(key)

    async def retreat(self, offset: int) -> None:
        self._held.clear()
        self._uploads.forget(self._upload.name, self._offset)
        while self._keys and int(self._keys[-1].rsplit("/", 1)[1].partition("-")[0]) >= offset:
            await self._blobs.delete_object(self._keys.pop())
        self._offset = offset
        self._hasher = None

    async def _content(self) -> AsyncIterator[bytes]:
        for key in self._keys:
            async for piece in self._blobs.get_object(key):
                yield piece


def upload_of(artifact_id: str, generation: str, received_bytes: int, parts: Sequence[str]) -> Upload:
    """The upload of an artifact."""
    return Upload(f"{artifact_id}.{generation}", received_bytes, tuple(parts))


def _open(path: Path) -> int:
    """The file, locked; made when it is not there."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise _busy("Another server process is writing this upload.") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # renamed or removed between the two looks


def _hash_file(path: Path, size_bytes: int) -> Any:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while size_bytes > 0 and (piece := file.read(min(size_bytes, _WRITE_BYTES))):
            hasher.update(piece)
            size_bytes -= len(piece)
    return hasher


def _busy(message: str) -> BlobError:
    return BlobError("upload_busy", message, "Ask how far the upload is, and go on from there.")
