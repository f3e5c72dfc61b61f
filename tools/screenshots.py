"""Photograph every page of the console, light and dark, into docs/screenshots: `.venv/bin/python tools/screenshots.py`.

Needs chromium and what the tests need. The workspace on the pictures is that of the browser tests.
"""

from __future__ import annotations

import base64
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "src")]

from bench.plane import plane  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

from api.caller import Api  # noqa: E402
from browser import scene as scenes  # noqa: E402
from browser.conftest import FLAGS  # noqa: E402
from browser.pages import SIGNED_OUT, addresses, turn_to  # noqa: E402

TARGET = ROOT / "docs" / "screenshots"
SIZE = {"width": 1280, "height": 800}
QUALITY = 55
LEFT_OUT = {"runs-none", "run-missing", "no-such-page", "task-raw", "task-result", "task-blocked", "account", "docs-search", "verify", "forgot", "reset"}


def main() -> None:
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir()
    with plane() as server, sync_playwright() as playwright:
        api = Api(server.url, server.token)
        api.patch("/v1/projects/bench", {"name": "Blog"}).ok()
        with scenes.set_up(api) as scene:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS.split())
            page = browser.new_page(viewport=SIZE)
            page.goto(f"{server.url}/console/sign-in")
            page.wait_for_selector("h1")
            take(page, SIGNED_OUT)
            code = api.post("/v1/auth/browser-links").ok(201)["code"]
            page.goto(f"{server.url}/console/runs#link={code}")
            page.wait_for_selector("[role=row] .cover")
            take(page, addresses(scene))
            browser.close()


def take(page: Any, pages: dict[str, str]) -> None:
    session = page.context.new_cdp_session(page)
    for name, path in pages.items():
        if name in LEFT_OUT:
            continue
        turn_to(page, path)
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            page.wait_for_timeout(250)
            shot = session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
            (TARGET / f"{name}-{theme}.webp").write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main()
