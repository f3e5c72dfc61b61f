"""Packs that a machine has fetched already, shared by all who work on it.

A pack is a directory named by its digest, with the pack and its index as git reads them. It appears whole by
one rename and goes whole by another, so a kill at any moment leaves at worst something in ``new/`` that the
next trimming removes. Whoever uses a pack takes links to its files: from then on it may be evicted without
anybody noticing. So there is no lock, and any number of processes may share one cache.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flakes.core.limits import GIB
from flakes.workspace.git import Git
from flakes.workspace.packs import take_in

SIZE_BYTES_MAX: Final = 10 * GIB
KEPT_S: Final = 14 * 24 * 3600.0
"""A pack that nobody has used for so long goes, however much room there is."""
NEW_KEPT_S: Final = 3600.0
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache below `root`, which need not exist yet."""

    root: Path
    size_bytes_max: int = SIZE_BYTES_MAX
    kept_s: float = KEPT_S

    def take(self, digest: str, git: Git) -> bool:
        """Give the pack to a repository of ours; False when it is not here (any more)."""
        place = self._place(digest)
        target = git.directory / "objects" / "pack"
        try:
            files = sorted(os.listdir(place), reverse=True)  # the pack before its index  # noqa: PTH208
            if len(files) < 2:
                return False
            for name in files:
                _link(place / name, target / name)
            os.utime(place)
        except FileNotFoundError:
            return False
        return True

    def add(self, digest: str, path: Path, git: Git) -> None:
        """Take the file at `path`, whose digest the caller has checked, into a repository that has what the
        pack builds on, and keep it. Raises `WorkspaceError` for bytes that are not a sound pack."""
        name = take_in(git, path)
        source = git.directory / "objects" / "pack"
        new = self.root / "new" / secrets.token_hex(8)
        new.mkdir(parents=True, mode=0o700)
        for ending in ("pack", "idx"):
            _link(source / f"pack-{name}.{ending}", new / f"pack-{name}.{ending}")
        place = self._place(digest)
        place.parent.mkdir(exist_ok=True, mode=0o700)
        try:
            new.rename(place)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(new)  # another process was quicker

    def trim(self) -> int:
        """Remove what is too old, then what was used longest ago until the rest fits, and what killed processes
        left half done; the bytes that remain."""
        now = time.time()
        with contextlib.suppress(FileNotFoundError):
            for left in (self.root / "new").iterdir():
                if left.stat().st_mtime < now - NEW_KEPT_S:
                    shutil.rmtree(left, ignore_errors=True)
        found = sorted(self._packs(), reverse=True)
        size_bytes = 0
        for used_at, own_bytes, place in found:
            if used_at < now - self.kept_s or size_bytes + own_bytes > self.size_bytes_max:
                self._evict(place)
            else:
                size_bytes += own_bytes
        return size_bytes

    def _packs(self) -> Iterator[tuple[float, int, Path]]:
        """(last used, bytes, directory) of each."""
        with contextlib.suppress(FileNotFoundError):
            for place in (self.root / "packs").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    size_bytes = sum(file.stat().st_size for file in place.iterdir())
                    yield place.stat().st_mtime, size_bytes, place

    def _evict(self, place: Path) -> None:
        gone = self.root / "new" / secrets.token_hex(8)
        gone.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(OSError):  # another process was quicker
            place.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _place(self, digest: str) -> Path:
        assert _DIGEST.fullmatch(digest), digest
        return self.root / "packs" / digest.removeprefix("sha256:")


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except OSError as problem:
        if problem.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        part = target.with_name(f"{secrets.token_hex(8)}.part")
        shutil.copyfile(source, part)
        part.replace(target)
