"""A user's repository for tests, and a way to see that nothing of it was touched."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

_WHO = ("-c", "user.name=User", "-c", "user.email=user@localhost", "-c", "init.defaultBranch=main")


def git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *_WHO, *arguments], cwd=directory, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def write(root: Path, **files: str) -> None:
    """Files by name; `__` in a name is a directory, `_` a dot."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def repository(root: Path, **files: str) -> Path:
    root.mkdir(parents=True)
    git(root, "init", "--quiet")
    write(root, **files)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "-m", "first")
    return root


def fingerprint(root: Path) -> dict[str, tuple[str, int, int]]:
    """Every file below `root`, .git included: digest of its content (or link), mode and modification time."""
    seen: dict[str, tuple[str, int, int]] = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            found = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
            if path.is_symlink():
                content = os.fsencode(path.readlink())
            seen[str(path.relative_to(root))] = (
                hashlib.sha256(content).hexdigest(),
                found.st_mode,
                found.st_mtime_ns,
            )
    return seen
