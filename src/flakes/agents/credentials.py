"""An agent's own files in the private home of one attempt: copied in, and renewed credentials written back.

An attempt never works in the user's own configuration: it gets copies, with mode 0600. An agent may renew a
credential while it works (and the old one is then worth nothing), so what was lent is written down in a ledger
outside of the attempt's reach, and settled when nothing of the attempt runs any more, however it ended; after
a crash by whoever comes next. A renewed file is written back unless its original has changed meanwhile: then
somebody else renewed it, and that counts.

Invariants: a file is replaced whole or not at all. What an attempt left is never followed out of its
directory. What is half written, empty or no longer JSON is no renewed credential.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

SIZE_BYTES_MAX: Final = 1024 * 1024


def copy_in(source_dir: Path, target_dir: Path, names: tuple[str, ...]) -> list[str]:
    """Copy those of the files that are there; their names. Blocking."""
    target_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    found: list[str] = []
    for name in names:
        try:
            content = (source_dir / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError):
            continue
        _replace(target_dir / name, content)
        found.append(name)
    return found


def lend(source_dir: Path, target_dir: Path, names: tuple[str, ...], ledger: Path, root: Path) -> None:
    """Copy, and write down what was lent. `root` is a directory of ours above the target. Blocking."""
    for name in copy_in(source_dir, target_dir, names):
        copy = target_dir / name
        entry = {
            "source": str(source_dir / name), "root": str(root), "copy": str(copy.relative_to(root)),
            "digest": _digest(copy.read_bytes()),
        }  # fmt: skip
        ledger.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _replace(ledger, b"".join((*_lines(ledger), json.dumps(entry).encode() + b"\n")))


def settle(ledger: Path) -> list[Path]:
    """Put renewed files back, and forget the ledger; originals that had changed too and were left alone.
    Called when nothing of the attempt runs any more; once more does nothing. Blocking."""
    left: list[Path] = []
    for line in _lines(ledger):
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # the draft of a ledger, whose writer was killed
        source = Path(entry["source"])
        renewed = _read_below(Path(entry["root"]), Path(entry["copy"]))
        if renewed is None or _digest(renewed) == entry["digest"]:
            continue
        try:
            # A link is followed to the file that it names: that one is replaced, not the link.
            place = source.resolve(strict=True)
            with _alone(place.parent):
                original = place.read_bytes()
                if _digest(original) != entry["digest"]:
                    left.append(source)
                elif _is_whole(renewed, original):
                    _replace(place, renewed)
        except OSError:
            left.append(source)
    ledger.unlink(missing_ok=True)
    return left


def _lines(ledger: Path) -> list[bytes]:
    try:
        return ledger.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []


def _is_whole(renewed: bytes, original: bytes) -> bool:
    """Whether it can be what the agent wanted to write. One that was signed out of is no renewed one."""
    try:
        json.loads(original)
    except ValueError:
        return bool(renewed.strip())
    try:
        return bool(json.loads(renewed))
    except ValueError:
        return False


def _read_below(root: Path, path: Path) -> bytes | None:
    """The content of an ordinary file, reached through ordinary directories alone; None for anything else."""
    opened: list[int] = []
    try:
        opened.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for part in path.parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            opened.append(os.open(part, flags, dir_fd=opened[-1]))
        # Not blocking: a pipe in its place has no end.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        opened.append(os.open(path.name, flags, dir_fd=opened[-1]))
        about = os.fstat(opened[-1])
        if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1 or about.st_size > SIZE_BYTES_MAX:
            return None
        return os.read(opened[-1], SIZE_BYTES_MAX)
    except OSError:
        return None
    finally:
        for descriptor in opened:
            os.close(descriptor)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Two attempts that end together take turns; the lock is on the directory and leaves no file."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
