"""Very many new files into an empty index, by several git processes side by side.

git hashes and compresses one file after the other. Here each of several processes takes a part of the paths
into an index of its own; their entries, with what was seen of each file, are then written as one index. It is
a head start and nothing more: `git add` looks at everything afterwards, as it would at an index of its own,
and where anything is not as expected here it simply has to do all of the work.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

from flakes.workspace.git import Git, GitFailed, WorkspaceError

FILES_MIN: Final = 4_000
"""Below that, starting processes and writing an index once more costs what it gains."""
PROCESSES_MAX: Final = 4

# gitformat-index(5), version 2: a header, entries in the order of their names, a SHA-1 of all that. An entry
# is 40 bytes of what was seen of the file, 20 of its object, 2 of flags, its name, and 1 to 8 NUL bytes that
# bring its length to a multiple of 8.
_HEADER: Final = struct.Struct(">4sLL")
_FLAGS_AT: Final = 60
_NAME_AT: Final = 62
_EXTENDED: Final = 0x4000
_STAGE: Final = 0x3000


class _UnexpectedError(Exception):
    """An index that is not of the form that was asked for."""


def fill(git: Git, paths: Sequence[str], settings: Sequence[str]) -> bool:
    """Take the files at `paths` into the index, which is not there yet; whether that was done."""
    processes = min(PROCESSES_MAX, os.cpu_count() or 1)
    index = git.index
    if index is None or index.exists() or len(paths) < FILES_MIN or processes < 2 or not _batches(git):
        return False
    parts = [index.with_name(f"{index.name}.{number}") for number in range(processes)]
    size = -(-len(paths) // processes)
    try:
        with ThreadPoolExecutor(processes) as pool:
            slices = (paths[number * size :][:size] for number in range(processes))
            list(pool.map(lambda part, some: _take(git, part, some, settings), parts, slices))
        _write(index, sorted(entry for part in parts for entry in _entries(part)))
    except (GitFailed, WorkspaceError, OSError, _UnexpectedError):
        return False
    finally:
        for part in parts:
            for left in (part, part.with_name(f"{part.name}.lock")):
                with contextlib.suppress(OSError):
                    left.unlink()
    return True


def _batches(git: Git) -> bool:
    """Whether this git's `update-index` gathers objects in one pack: before 2.38 it made a file of each."""
    words = git.text("version").split()
    version = tuple(int(number) for number in words[2].split(".")[:2] if number.isdigit())
    return version >= (2, 38)


def _take(git: Git, index: Path, paths: Sequence[str], settings: Sequence[str]) -> None:
    index.unlink(missing_ok=True)
    replace(git, index=index).run(
        "update-index", "--add", "-z", "--stdin", stdin=paths, settings=(*settings, "index.version=2")
    )


def _entries(index: Path) -> Iterator[tuple[bytes, bytes]]:
    """Name and bytes of every entry."""
    content = index.read_bytes()
    signature, version, count = _HEADER.unpack_from(content)
    if (signature, version) != (b"DIRC", 2):
        raise _UnexpectedError
    at = _HEADER.size
    for _ in range(count):
        (flags,) = struct.unpack_from(">H", content, at + _FLAGS_AT)
        name_end = content.index(b"\0", at + _NAME_AT)
        if flags & (_EXTENDED | _STAGE):
            raise _UnexpectedError
        end = at + (name_end - at + 8) // 8 * 8
        yield content[at + _NAME_AT : name_end], content[at:end]
        at = end


def _write(index: Path, entries: Sequence[tuple[bytes, bytes]]) -> None:
    """As git does it: under the name of its lock, and then at once."""
    content = _HEADER.pack(b"DIRC", 2, len(entries)) + b"".join(entry for _, entry in entries)
    part = index.with_name(f"{index.name}.lock")
    with part.open("xb") as file:
        file.write(content + hashlib.sha1(content, usedforsecurity=False).digest())
    part.rename(index)
