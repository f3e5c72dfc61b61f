"""The console's static files in memory, under one address that changes when any of them does.

Modules name each other relatively, so a page that loads the first from `/console/static/<version>/` loads
all from there, and every one of them may be cached for ever. Only the shell, `index.html`, is asked for
again each time.
"""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

BASE: Final = "/console"
SHELL: Final = "index.html"
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. `etag` is quoted, as it goes into the header."""

    content: bytes
    media_type: str
    etag: str


@dataclass(frozen=True, slots=True)
class Assets:
    """All of them by path, and the page that loads them."""

    version: str
    shell: Asset
    files: dict[str, Asset]


def load() -> Assets:
    """Read every file once. Those of unknown kinds (licences) are plain text."""
    found = dict(_walk(files("flakes.console") / "static", ""))
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(path.encode() + b"\0" + found[path] + b"\0")
    version = digest.hexdigest()[:16]
    shell = found.pop(SHELL).decode()
    preload = "\n".join(
        f'<link rel="modulepreload" href="{BASE}/static/{version}/{html.escape(path)}">'
        for path in sorted(found)
        if path.endswith(".js") and path != "app/theme.js"
    )
    page = shell.replace("{static}", f"{BASE}/static/{version}").replace("{preload}", preload)
    return Assets(
        version,
        _asset(SHELL, page.encode()),
        {path: _asset(path, content) for path, content in found.items()},
    )


def _asset(path: str, content: bytes) -> Asset:
    suffix = path[path.rfind(".") :] if "." in path else ""
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return Asset(content, MEDIA_TYPES.get(suffix, "text/plain; charset=utf-8"), etag)


def _walk(directory: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for each in directory.iterdir():
        if each.is_dir():
            found += _walk(each, f"{prefix}{each.name}/")
        else:
            found.append((prefix + each.name, each.read_bytes()))
    return found
