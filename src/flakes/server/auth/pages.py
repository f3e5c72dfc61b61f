"""The few pages that the server writes itself: no script, nothing from elsewhere, in no frame."""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Final

from starlette.responses import HTMLResponse

STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 26rem; margin: 4rem auto; padding: 0 1rem; }
label, input, button { display: block; font: inherit; }
input { width: 100%; box-sizing: border-box; padding: .4rem; margin: .2rem 0 .8rem; }
button { padding: .4rem 1rem; margin: .6rem 0; }
code { font-size: 1.2em; letter-spacing: .08em; }
"""

_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: browsers would send `Origin: null` with the forms.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def answer(title: str, body: str, status: int = 200, head: str = "") -> HTMLResponse:
    """A page. `body` and `head` are HTML, with whatever came from elsewhere escaped by the caller."""
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{head}'
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>{body}</body></html>"
    )
    return HTMLResponse(text, status, HEADERS)
