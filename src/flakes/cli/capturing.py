"""The user's files into a run: captured, what the server lacks of them uploaded, and said in a line.

What was uploaded before is remembered beside our repository of these files, by server, so that a change
costs a pack of what changed and no change costs one request. What a server has forgotten is sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from flakes.core import limits
from flakes.session.layout import data_dir
from flakes.wire.errors import ApiError
from flakes.workspace.changes import changes
from flakes.workspace.git import Git, WorkspaceError
from flakes.workspace.packs import pack
from flakes.workspace.snapshot import Snapshot, snapshot

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.workspaces import WorkspaceHandle

PLAIN_FILES_MAX: Final = 500
PLAIN_BYTES_MAX: Final = 16 * limits.MIB
"""A directory that is no repository is captured without being named only up to this size."""
CHAIN_MAX: Final = 20
"""Packs of one handle before everything is packed anew."""
OPT_OUT: Final = "or run without the files: --no-workspace"


class _Uploaded(msgspec.Struct, frozen=True):
    """What a server has been given last."""

    commit: str
    packs: list[tuple[str, int]]
    """(digest, bytes), oldest first."""


@dataclass(frozen=True, slots=True)
class Captured:
    """Files that a run begins from."""

    handle: WorkspaceHandle
    root: Path
    files: int
    changed: int | None
    """Paths that differ from what this server was given before; None the first time."""
    uploaded_bytes: int
    notes: tuple[str, ...]


def state_dir() -> Path:
    """Where our repositories of the user's files are."""
    return data_dir() / "workspaces"


def wanted(directory: Path | None) -> Path | None:
    """The directory to capture: the named one, else the repository or small directory that this is."""
    if directory is not None:
        return directory
    here = Path.cwd()
    if _repository_of(here) is not None:
        return here
    return here if _is_small(here) and shutil.which("git") else None


def take(directory: Path) -> Snapshot:
    """Capture, with every refusal as an `ApiError`."""
    try:
        return snapshot(directory, state_dir())
    except WorkspaceError as problem:
        raise refusal(problem, OPT_OUT) from problem


def refusal(problem: WorkspaceError, otherwise: str = "") -> ApiError:
    """The same as the error of a command."""
    fix = "; ".join(part for part in (problem.fix, otherwise) if part)
    details = {"paths": [_text(path) for path in problem.paths[:100]]} if problem.paths else {}
    return ApiError(problem.code, _text(problem.message), fix, **details)


async def store(client: Client, taken: Snapshot) -> Captured:
    """Give the server what it lacks of a snapshot."""
    from flakes.wire.workspaces import WorkspacePack, WorkspacePost

    async def offer(uploaded: _Uploaded, files: dict[str, Path]) -> tuple[WorkspaceHandle, int]:
        packs = [WorkspacePack(digest=digest, size_bytes=size) for digest, size in uploaded.packs]
        return await client.store_workspace(
            WorkspacePost(commit=taken.commit, tree=taken.tree, head=taken.head, packs=packs), files
        )

    before = _remembered(taken, client.server)
    with tempfile.TemporaryDirectory(prefix="flakes-packs-") as scratch:
        now, files = await asyncio.to_thread(_next, taken, before, Path(scratch))
        try:
            handle, sent = await offer(now, files)
        except ApiError as error:
            if error.code != "workspace_packs_missing" or before is None:
                raise
            before = None
            now, files = await asyncio.to_thread(_next, taken, None, Path(scratch))
            handle, sent = await offer(now, files)
    _remember(taken, client.server, now)
    changed = None
    if before is not None:
        changed = 0
        if before.commit != taken.commit:
            changed = len(await asyncio.to_thread(changes, taken.git, before.commit, taken.commit))
    return Captured(handle, taken.root, taken.files, changed, sent, taken.notes)


def _next(
    taken: Snapshot, before: _Uploaded | None, scratch: Path
) -> tuple[_Uploaded, dict[str, Path]]:
    """What the server is to have, and the packs to send for it."""
    if before is not None and before.commit == taken.commit:
        return before, {}
    if before is not None and len(before.packs) < CHAIN_MAX and taken.git.has(before.commit):
        made = _packed(taken.git, taken.commit, [before.commit], scratch / "more")
        # Once the additions weigh more than the whole, the whole is sent again, and they are forgotten.
        if sum(size for _, size in before.packs[1:]) + made[1] <= before.packs[0][1]:
            return _Uploaded(taken.commit, [*before.packs, made]), {made[0]: scratch / "more"}
    made = _packed(taken.git, taken.commit, [], scratch / "all")
    return _Uploaded(taken.commit, [made]), {made[0]: scratch / "all"}


def _packed(git: Git, commit: str, without: Sequence[str], to: Path) -> tuple[str, int]:
    size_bytes = pack(git, commit, without=without, to=to)
    if size_bytes > limits.WORKSPACE_PACK_SIZE_BYTES_MAX:
        limit = limits.WORKSPACE_PACK_SIZE_BYTES_MAX
        raise ApiError("workspace_file_too_large", f"the files make a pack of {size_bytes:,} bytes; the limit is {limit:,}", f"ignore what no task needs (.gitignore), {OPT_OUT}", limit=limit, size=size_bytes)
    with to.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", size_bytes


def _record(taken: Snapshot) -> Path:
    return taken.git.directory.parent / "uploaded.json"


def _read(taken: Snapshot) -> dict[str, _Uploaded]:
    try:
        return msgspec.json.decode(_record(taken).read_bytes(), type=dict[str, _Uploaded])
    except (OSError, msgspec.DecodeError):
        return {}


def _remembered(taken: Snapshot, server: str) -> _Uploaded | None:
    return _read(taken).get(server)


def _remember(taken: Snapshot, server: str, now: _Uploaded) -> None:
    known = _read(taken)
    if known.get(server) == now:
        return
    known.pop(server, None)
    path = _record(taken)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(msgspec.json.encode({**dict(list(known.items())[-15:]), server: now}))
    part.replace(path)


def _repository_of(directory: Path) -> Path | None:
    return next(
        (each for each in (directory, *directory.parents) if (each / ".git").exists()), None
    )


def _is_small(directory: Path) -> bool:
    """Whether a directory that nobody named is so small that it can only be what the work is about."""
    home = Path.home()
    if directory == home or directory in home.parents:
        return False
    files = size_bytes = 0
    for place, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if name != ".git"]
        files += len(names) + len(directories)
        if files > PLAIN_FILES_MAX:
            return False
        for name in names:
            try:
                size_bytes += os.lstat(f"{place}/{name}").st_size
            except OSError:
                continue
        if size_bytes > PLAIN_BYTES_MAX:
            return False
    return files > 0


def _text(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "backslashreplace")
