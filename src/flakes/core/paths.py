"""Logical paths of a run: relative, POSIX, normalised; the names that file reservations are about.

They name no file of any machine, so nothing here looks at one. A prefix covers its own path and all that
lies below it, by whole segments: ``src`` covers ``src/a.py`` and not ``srcs``.
"""

from __future__ import annotations


class PathRefused(ValueError):  # noqa: N818 - a refusal, said as one
    """Not a logical path; the message says why, in a few words that follow the path's name."""


def logical_path(text: str) -> str:
    """`text` normalised (``./a//b/`` is ``a/b``); raises `PathRefused` when it is empty, absolute, holds a
    ``..`` segment or a control character."""
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise PathRefused("holds a control character")
    if text.startswith("/"):
        raise PathRefused("is absolute")
    segments = [segment for segment in text.split("/") if segment not in ("", ".")]
    if ".." in segments:
        raise PathRefused("holds `..`")
    if not segments:
        raise PathRefused("is empty")
    return "/".join(segments)


def self_and_ancestors(path: str) -> list[str]:
    """The path and every path that covers it as a prefix: ``a/b/c``, ``a/b``, ``a``."""
    found = [path]
    while (cut := path.rfind("/")) > 0:
        path = path[:cut]
        found.append(path)
    return found
