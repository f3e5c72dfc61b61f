"""What differs between two handles, for those who have no git of their own: the one thing the server uses git for.

Packs are taken into a repository that is only a cache: it is thrown away when it has grown, and whoever
needed something of it takes it in again. Processes may share it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flakes.core import limits
from flakes.core.limits import GIB
from flakes.store.blobs import BlobError, BlobStore
from flakes.wire.errors import ApiError
from flakes.wire.workspaces import (
    Omitted,
    WorkspaceDiff,
    WorkspaceFileDiff,
    WorkspaceHandle,
    path_text,
)
from flakes.workspace.capture import GITLINK
from flakes.workspace.changes import Change, changes, patch
from flakes.workspace.git import Git, GitFailed, WorkspaceError
from flakes.workspace.packs import take_in

SIZE_BYTES_MAX: Final = 4 * GIB
_HEAD: Final = b"diff --git "


class Diffs:
    """See the module. One for a server."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        held = blobs.directory or Path(tempfile.gettempdir()) / f"flakes-{os.geteuid()}"
        self._root = held / "diffs"
        self._one = asyncio.Lock()

    async def page(
        self, base: WorkspaceHandle, new: WorkspaceHandle, *, start: int, limit: int, patches: bool,
        renames: bool = False,
    ) -> WorkspaceDiff:
        """Paths from the `start`th on. Raises `ApiError`: `git_missing`, `workspace_pack_damaged`,
        `limit_exceeded`; and `BlobError`."""
        try:
            async with self._one:
                git = await asyncio.to_thread(self._open)
                await self._take(git, base)
                await self._take(git, new)
            return await asyncio.to_thread(_page, git, base, new, start, limit, patches, renames)
        except WorkspaceError as problem:
            raise ApiError(problem.code, problem.message, problem.fix or "look at it with `flakes diff`") from problem
        except GitFailed as problem:
            raise ApiError(
                "workspace_pack_damaged", "the packs of these workspaces cannot be read",
                "look at them with `flakes diff`, which fetches them anew",
            ) from problem  # fmt: skip

    def _open(self) -> Git:
        place = self._root / "objects.git"
        if _size(place) > SIZE_BYTES_MAX:
            gone = Path(tempfile.mkdtemp(prefix="old-", dir=self._root))
            place.rename(gone / "objects.git")
            shutil.rmtree(gone, ignore_errors=True)
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Git.at(place)

    async def _take(self, git: Git, handle: WorkspaceHandle) -> None:
        if await asyncio.to_thread(git.has, handle.commit):
            return
        total = sum(pack.size_bytes for pack in handle.packs)
        if total > limits.WORKSPACE_DIFF_PACKS_BYTES_MAX:
            raise ApiError(
                "limit_exceeded", f"the packs of {handle.workspace_id} have {total} bytes",
                "look at it with `flakes diff`", limit=limits.WORKSPACE_DIFF_PACKS_BYTES_MAX, size=total,
            )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="new-", dir=self._root) as scratch:
            path = Path(scratch) / "pack"
            for pack in handle.packs:
                await self._fetch(pack.digest, path)
                await asyncio.to_thread(take_in, git, path)
        if not await asyncio.to_thread(git.has, handle.commit):
            raise ApiError(
                "workspace_pack_damaged", f"the packs of {handle.workspace_id} do not hold its commit",
                "store the workspace again",
            )  # fmt: skip

    async def _fetch(self, digest: str, path: Path) -> None:
        try:
            with path.open("wb") as file:
                async for piece in self._blobs.get(digest):
                    await asyncio.to_thread(file.write, piece)
        except BlobError as error:
            if error.code in ("blob_missing", "blob_corrupt"):
                raise ApiError("workspace_pack_damaged", f"the pack {digest} is missing or damaged", "restore the server's blob store from a backup") from error
            raise


def _page(
    git: Git, base: WorkspaceHandle, new: WorkspaceHandle, start: int, limit: int, patches: bool,
    renames: bool,
) -> WorkspaceDiff:  # fmt: skip
    found = changes(git, base.commit, new.commit, renames=renames)
    some = found[start : start + limit]
    sizes = _sizes(git, some)
    wanted = [each for each in some if patches and _omitted(each, sizes) is None]
    texts = _patches(git, base.commit, new.commit, wanted)
    files: list[WorkspaceFileDiff] = []
    held = 0
    for each in some:
        omitted = _omitted(each, sizes) if patches else "not_asked"
        one = _file(each, sizes, texts.get(each.path), omitted)
        held += len(texts.get(each.path, b""))
        if files and held > limits.WORKSPACE_DIFF_PAGE_BYTES_MAX:
            break
        files.append(one)
    end = start + len(files)
    return WorkspaceDiff(
        base_workspace_id=base.workspace_id, workspace_id=new.workspace_id, file_count=len(found),
        files=files, next_cursor=str(end) if end < len(found) else None,
    )  # fmt: skip


def _file(
    change: Change, sizes: dict[str, int], text: bytes | None, omitted: Omitted | None
) -> WorkspaceFileDiff:
    added = removed = None
    content, encoded = None, None
    if text is not None and b"\n@@ " not in text and b"\nBinary files " in text:
        omitted, text = "binary", None
    if text is not None:
        added, removed = _counted(text)
        try:
            content = text.decode()
        except UnicodeDecodeError:
            encoded = text
    moved = change.old_path is not None
    return WorkspaceFileDiff(
        path=path_text(change.path), kind="renamed" if moved else change.kind,
        old_path=path_text(change.old_path) if change.old_path is not None else None,
        alike_percent=change.alike_percent, old_mode=change.old_mode, new_mode=change.new_mode,
        old_size_bytes=sizes.get(change.old_id), new_size_bytes=sizes.get(change.new_id),
        added_lines=added, removed_lines=removed, patch=content, patch_base64=encoded, omitted=omitted,
    )  # fmt: skip


def _counted(text: bytes) -> tuple[int, int]:
    """Lines that came and went in a patch, which has two parts where a file became a link."""
    added = removed = 0
    for part in _split(text):
        _, _, hunks = part.partition(b"\n@@ ")
        for line in hunks.split(b"\n")[1:]:
            added += line.startswith(b"+")
            removed += line.startswith(b"-")
    return added, removed


def _omitted(change: Change, sizes: dict[str, int]) -> Omitted | None:
    if GITLINK in (change.old_mode, change.new_mode):
        return "submodule"
    size = max(sizes.get(change.old_id, 0), sizes.get(change.new_id, 0))
    return "too_large" if size > limits.WORKSPACE_DIFF_FILE_BYTES_MAX else None


def _sizes(git: Git, some: Sequence[Change]) -> dict[str, int]:
    ids = sorted({name for each in some for name in (each.old_id, each.new_id)})
    said = git.run(
        "cat-file", "--batch-check=%(objectname) %(objectsize)",
        stdin="".join(f"{name}\n" for name in ids).encode(),
    )  # fmt: skip
    pairs = [line.split() for line in said.decode().splitlines()]
    return {name: int(size) for name, size in pairs if size.isdigit()}


def _patches(git: Git, old: str, new: str, some: Sequence[Change]) -> dict[str, bytes]:
    """The patch of each path. No line of a patch's body begins like its first line does."""
    if not some:
        return {}
    paths = [each.path for each in some if each.old_path is None]
    parts = _split(patch(git, old, new, paths, binary=False)) if paths else []
    if len(parts) != len(paths):  # a file that became a directory, or a link
        parts = [_alone(git, old, new, path) for path in paths]
    found = dict(zip(paths, parts, strict=True))
    for each in some:
        if each.old_path is not None:
            both = [each.old_path, each.path]
            found[each.path] = patch(git, old, new, both, binary=False, renames=True)
    return found


def _alone(git: Git, old: str, new: str, path: str) -> bytes:
    """The patch of one path, without those of what is in a directory of that name."""
    first, *more = _split(patch(git, old, new, [path], binary=False))
    head = first.partition(b"\n")[0]
    return b"".join([first, *(part for part in more if part.partition(b"\n")[0] == head)])


def _split(text: bytes) -> list[bytes]:
    first, *more = (b"\n" + text).split(b"\n" + _HEAD)
    assert first == b"", first[:100]
    return [_HEAD + part + (b"" if part.endswith(b"\n") else b"\n") for part in more]


def _size(directory: Path) -> int:
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(f"{place}/{name}").st_size
            except OSError:
                continue
    return total
