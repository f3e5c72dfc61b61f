"""Project roots of hosts: absolute paths of another machine, told apart and extended as plain text."""

from __future__ import annotations

import re
from typing import Final

_WINDOWS: Final = re.compile(r"(?:[A-Za-z]:[\\/]|\\\\[^\\/]+[\\/][^\\/]+)")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def problem(path: str) -> str | None:
    """What is wrong with a path as a project root, or None."""
    if _CONTROL.search(path):
        return "must not contain control characters"
    if not path.startswith("/") and not _WINDOWS.match(path):
        return "must be an absolute path"
    if ".." in re.split(r"[\\/]" if _WINDOWS.match(path) else "/", path):
        return "must not contain `..`"
    return None


def workspace_path(root: str, project_key: str) -> str:
    """The directory of a project below a root."""
    separator = "\\" if _WINDOWS.match(root) and "/" not in root else "/"
    return f"{root.rstrip(separator)}{separator}{project_key}"
