"""What differs between two handles, in pages, for those who have no git of their own.

A page holds a bounded part of the patches, whatever the size of the files; a portion of it is made at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from flakes.core import limits
from flakes.server.bench import Bench, packs_of
from flakes.store.blob_errors import BlobError
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

_HEAD = b"diff --git "


async def page(
    bench: Bench, base: WorkspaceHandle, new: WorkspaceHandle, *, start: int, limit: int, patches: bool,
    renames: bool = False,
) -> WorkspaceDiff:  # fmt: skip
    """Paths from the `start`th on. Raises `ApiError`: `git_missing`, `workspace_pack_damaged`,
    `limit_exceeded`; and `BlobError`."""
    _refuse_large(base, new)
    try:
        async with bench.repository([base, new]) as git:
            for each in (base, new):
                if not await asyncio.to_thread(git.has, each.commit):
                    raise ApiError(
                        "workspace_pack_damaged", f"the packs of {each.workspace_id} do not hold its commit",
                        "store the workspace again",
                    )  # fmt: skip
            return await asyncio.to_thread(_page, git, base, new, start, limit, patches, renames)
    except WorkspaceError as problem:
        raise ApiError(problem.code, problem.message, problem.fix or "look at it with `flakes diff`") from problem
    except GitFailed as problem:
        raise ApiError(
            "workspace_pack_damaged", "the packs of these workspaces cannot be read",
            "look at them with `flakes diff`, which fetches them anew",
        ) from problem  # fmt: skip
    except BlobError as error:
        if error.code in ("blob_missing", "blob_corrupt"):
            raise ApiError("workspace_pack_damaged", f"a pack is missing or damaged: {error}", "restore the server's blob store from a backup") from error
        raise


def _refuse_large(base: WorkspaceHandle, new: WorkspaceHandle) -> None:
    total = sum(pack.size_bytes for pack in packs_of([base, new]))
    if total > limits.WORKSPACE_DIFF_PACKS_BYTES_MAX:
        raise ApiError(
            "limit_exceeded", f"the packs of {new.workspace_id} and {base.workspace_id} have {total} bytes",
            "look at it with `flakes diff`", limit=limits.WORKSPACE_DIFF_PACKS_BYTES_MAX, size=total,
        )  # fmt: skip


def _page(
    git: Git, base: WorkspaceHandle, new: WorkspaceHandle, start: int, limit: int, patches: bool,
    renames: bool,
) -> WorkspaceDiff:  # fmt: skip
    found = changes(git, base.commit, new.commit, renames=renames)
    some = found[start : start + limit]
    sizes = _sizes(git, some)
    files: list[WorkspaceFileDiff] = []
    held = 0
    for portion in _portions(some, sizes):
        wanted = [each for each in portion if patches and _omitted(each, sizes) is None]
        texts = _patches(git, base.commit, new.commit, wanted)
        for each in portion:
            held += len(texts.get(each.path, b""))
            if files and held > limits.WORKSPACE_DIFF_PAGE_BYTES_MAX:
                break
            omitted = _omitted(each, sizes) if patches else "not_asked"
            files.append(_file(each, sizes, texts.get(each.path), omitted))
        if held > limits.WORKSPACE_DIFF_PAGE_BYTES_MAX:
            break
    end = start + len(files)
    return WorkspaceDiff(
        base_workspace_id=base.workspace_id, workspace_id=new.workspace_id, file_count=len(found),
        files=files, next_cursor=str(end) if end < len(found) else None,
    )  # fmt: skip


def _portions(some: Sequence[Change], sizes: dict[str, int]) -> Iterator[list[Change]]:
    """Changes whose patches are made at a time: their files have about as much together as a page may hold."""
    portion: list[Change] = []
    size_bytes = 0
    for each in some:
        portion.append(each)
        if _omitted(each, sizes) is None:
            size_bytes += sizes.get(each.old_id, 0) + sizes.get(each.new_id, 0)
        if size_bytes > limits.WORKSPACE_DIFF_PAGE_BYTES_MAX:
            yield portion
            portion, size_bytes = [], 0
    if portion:
        yield portion


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
