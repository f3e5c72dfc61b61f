"""Opening a page in this machine's browser, where there is a screen to see it on."""

from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

import click


def open_page(url: str) -> bool:
    """Whether a browser was started. Without a screen none is: a text browser would take the terminal over.

    The address may be a server's word, so whatever is not a web page is left alone.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        return False
    if sys.platform != "darwin" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    return click.launch(url) == 0
