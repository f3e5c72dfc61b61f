"""An agent's own files in the private home of one attempt: copied in, and new credentials written back.

An attempt never works in the user's own configuration: it gets copies, with mode 0600. An agent may renew a
credential while it works (and the old one is then worth nothing), so what it changed is written back when
the attempt ends, unless the original has changed meanwhile: then somebody else renewed it, and that counts.
A file is replaced whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Copied:
    """One credential file: where it is from, where it is now, and what it was."""

    source: Path
    copy: Path
    digest: bytes


def copy_in(source_dir: Path, target_dir: Path, names: tuple[str, ...]) -> list[Copied]:
    """Copy those of the files that are there; what was copied. Blocking."""
    target_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    found: list[Copied] = []
    for name in names:
        source = source_dir / name
        try:
            content = source.read_bytes()
        except (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError):
            continue
        copy = target_dir / name
        _replace(copy, content)
        found.append(Copied(source, copy, _digest(content)))
    return found


def write_back(copied: list[Copied]) -> list[Path]:
    """Put renewed files back; those whose original had changed too and was left alone. Blocking."""
    left: list[Path] = []
    for one in copied:
        try:
            content = one.copy.read_bytes()
            if _digest(content) == one.digest or not content.strip():
                continue
            # A link is followed to the file that it names: that one is replaced, not the link.
            source = one.source.resolve(strict=True)
            if _digest(source.read_bytes()) != one.digest:
                left.append(one.source)
                continue
            _replace(source, content)
        except OSError:
            left.append(one.source)
    return left


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _replace(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:  # mkstemp: mode 0600
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
