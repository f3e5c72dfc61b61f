"""Where the control plane works on files: a repository for the moment, made of packs that are kept at hand.

Whoever compares, merges or predicts has one of its own, so any number may at once, of several processes too. The
packs below are kept up to a size (`workspace.cache`). Nothing here is state: what is lost is fetched from the blob
store again. Objects come from packs, and what is made goes into one; no file of anybody's is ever written out, and
nothing that a repository holds is run.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from flakes.core.limits import GIB, MIB, WORKSPACE_PACK_SIZE_BYTES_MAX, WORKSPACE_PACKS_MAX
from flakes.store import garbage
from flakes.store.blobs import BlobStore
from flakes.store.database import Database
from flakes.wire.workspaces import WorkspaceHandle, WorkspacePack
from flakes.workspace import packs
from flakes.workspace.cache import NEW_KEPT_S, Cache
from flakes.workspace.changes import Change, changes
from flakes.workspace.commits import commit, is_ancestor, keep
from flakes.workspace.git import Git
from flakes.workspace.merging import merge

KEPT_BYTES_MAX = 2 * GIB
AT_ONCE_MAX = 4
"""Repositories at the same time; who comes then waits."""
TRIM_S = 60.0
_PREFIX = "at-work-"
_MARKERS = "^(<<<<<<<|>>>>>>>) "


@dataclass(frozen=True, slots=True)
class Brought:
    """What came of merging `theirs` into `ours`: a commit that has both, with markers where they conflict."""

    commit: str
    tree: str
    conflicts: tuple[str, ...]
    changes: tuple[Change, ...]
    """From `ours` on."""
    contained: bool = False
    """`ours` has it already."""
    forward: bool = False
    """It is `theirs`, which was made from `ours`."""


class Bench:
    """See the module; one a replica."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        held = blobs.directory
        own = Path(tempfile.gettempdir()) / f"flakes-{os.geteuid()}"
        self._root = (own if held is None else held.parent) / "workspaces"
        self._cache = Cache(self._root, size_bytes_max=KEPT_BYTES_MAX)
        self._gate = asyncio.Semaphore(AT_ONCE_MAX)
        self._trimmed_s = 0.0

    @asynccontextmanager
    async def repository(self, handles: Sequence[WorkspaceHandle]) -> AsyncIterator[Git]:
        """A repository with everything that these handles reach. Raises `WorkspaceError`, `BlobError`."""
        async with self._gate:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._root))
            try:
                git = await asyncio.to_thread(Git.at, place / "objects.git")
                for pack in packs_of(handles):
                    if not await asyncio.to_thread(self._cache.take, pack.digest, git):
                        await self._fetch(pack, place / "incoming", git)
                yield git
            finally:
                await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
                if time.monotonic() > self._trimmed_s + TRIM_S:
                    self._trimmed_s = time.monotonic()
                    await asyncio.to_thread(self._trim)

    def _trim(self) -> None:
        """Keep to the size, and remove what killed processes left."""
        self._cache.trim()
        for left in self._root.glob(f"{_PREFIX}*"):
            try:
                if left.stat().st_mtime < time.time() - NEW_KEPT_S:
                    shutil.rmtree(left, ignore_errors=True)
            except FileNotFoundError:
                continue

    async def store(
        self, git: Git, made: str, handles: Sequence[WorkspaceHandle]
    ) -> list[WorkspacePack]:
        """Put what the commit has beyond these handles into the blob store; all packs that make it."""
        chain = packs_of(handles)
        known = [handle.commit for handle in handles]
        if len(chain) >= WORKSPACE_PACKS_MAX:
            chain, known = [], []
        path = git.directory.with_name("made.pack")
        size_bytes = await asyncio.to_thread(packs.pack, git, made, without=known, to=path)
        digest = await asyncio.to_thread(_digest, path)
        async with self._database.connection() as conn:
            await garbage.note(conn, digest)
        await self._blobs.put(
            _pieces(path), expected_digest=digest, size_bytes_max=WORKSPACE_PACK_SIZE_BYTES_MAX
        )
        return [*chain, WorkspacePack(digest=digest, size_bytes=size_bytes)]

    async def _fetch(self, pack: WorkspacePack, path: Path, git: Git) -> None:
        with path.open("wb") as file:
            async for piece in self._blobs.get(pack.digest):
                await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(self._cache.add, pack.digest, path, git)
        path.unlink()
        self._trimmed_s = min(self._trimmed_s, time.monotonic() - TRIM_S)  # it has grown


def packs_of(handles: Sequence[WorkspaceHandle]) -> list[WorkspacePack]:
    """All that these handles are made from, each once, in an order in which they can be taken in."""
    return list({each.digest: each for handle in handles for each in handle.packs}.values())


def bring(git: Git, ours: str, theirs: str, subject: str) -> Brought:
    """Merge two commits on objects alone; blocking. Raises `WorkspaceError` when they are unrelated."""
    if is_ancestor(git, theirs, ours):
        return Brought(ours, git.text("rev-parse", f"{ours}^{{tree}}"), (), (), contained=True)
    if is_ancestor(git, ours, theirs):
        tree = git.text("rev-parse", f"{theirs}^{{tree}}")
        return Brought(theirs, tree, (), tuple(changes(git, ours, theirs)), forward=True)
    both = merge(git, ours, theirs)
    made = commit(git, both.tree, subject, parents=[ours, theirs])
    keep(git, made)
    return Brought(made, both.tree, both.conflicts, tuple(changes(git, ours, made)))


def unresolved(git: Git, made: str, paths: Sequence[str]) -> list[str]:
    """Which of these files still have the markers of a conflict; blocking."""
    status, said = git.status("grep", "-l", "-z", "-E", "-e", _MARKERS, made, "--", *paths)
    if status != 0:
        return []
    return [name.partition(":")[2] for name in said.decode(errors="replace").split("\0") if name]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, MIB):
            yield piece
