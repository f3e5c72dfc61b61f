"""Where the tools of one task are: a private directory for its socket and token, and its `flakes` command.

A socket's path has room for little more than a hundred bytes, so the socket is not in the task's own
directory but in a short one under the temporary directory, mode 0700. The task's directory keeps a link
to it, by which a successor of this daemon finds and removes what a killed one left behind.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOCKET_PATH_BYTES_MAX: Final = 103
"""macOS has 104 with the final NUL, Linux 108."""
PREFIX: Final = "flakes-tools-"
LINK: Final = "tools"
SHIM: Final = Path(__file__).with_name("shim") / "main.py"


@dataclass(frozen=True, slots=True)
class Place:
    """The paths, and the token that opens the socket."""

    directory: Path
    socket: Path
    token_file: Path
    token: str

    def env(self) -> dict[str, str]:
        """What the task's environment says of them."""
        return {
            "FLAKES_TOOL_SOCKET": str(self.socket),
            "FLAKES_TOOL_TOKEN_FILE": str(self.token_file),
        }


def make(task_root: Path) -> Place:
    """A new place for the task whose directory is `task_root`; raises `OSError`."""
    remove(task_root)  # of a daemon that was killed
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_parent()))
    place = Place(directory, directory / "s", directory / "token", secrets.token_urlsafe(32))
    (task_root / LINK).symlink_to(directory)
    descriptor = os.open(place.token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(place.token)
    return place


def remove(task_root: Path) -> None:
    """Remove the place of a task, whoever made it; without one nothing happens. Never follows a link to
    anything but a directory that `make` could have made, and empties it of its own two files only."""
    link = task_root / LINK
    if not link.is_symlink():
        return
    target = link.readlink()
    link.unlink(missing_ok=True)
    if not target.name.startswith(PREFIX) or target.is_symlink():
        return
    try:
        for name in ("s", "token"):
            (target / name).unlink(missing_ok=True)
        target.rmdir()
    except OSError:
        pass  # gone, or not ours to remove


def write_command(path: Path) -> None:
    """Write the `flakes` command of tasks: this interpreter, isolated, on the shim."""
    line = f'exec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(SHIM))} "$@"'
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def _parent() -> str:
    """The temporary directory, or `/tmp` where its path is too long for a socket below it."""
    own = tempfile.gettempdir()
    room = SOCKET_PATH_BYTES_MAX - len(f"/{PREFIX}12345678/s")
    return own if len(os.fsencode(own)) <= room else "/tmp"  # noqa: S108
