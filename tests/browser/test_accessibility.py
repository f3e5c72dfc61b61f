"""Every page, held against axe-core in both themes, and 360 px wide; the order in which the keyboard goes through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from api.plane import Server
from browser import scene as scenes
from browser.conftest import account, visiting
from browser.installed import axe
from browser.pages import SIGNED_OUT, addresses, turn_to
from browser.scene import Scene

NARROW, WIDE = {"width": 360, "height": 780}, {"width": 1280, "height": 860}
CHECK = """async (rules) => {
    const found = await axe.run(document, {resultTypes: ["violations"], ...rules});
    return found.violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.html.slice(0, 160)} (${n.failureSummary})`));
}"""
CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}


@pytest.fixture(scope="module")
def scene(server: Server) -> Iterator[Scene]:
    with scenes.set_up(account(server)) as scene:
        yield scene


@pytest.fixture(scope="module")
def page(browser: Any, scene: Scene) -> Iterator[Any]:
    with visiting(browser, scene.api.url, scene.api, viewport=WIDE) as visit:
        page = visit("/runs")
        page.evaluate(axe())
        yield page


def measured(page: Any, path: str) -> list[str]:
    """What is wrong with a page."""
    turn_to(page, path)
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    found = [f"light: {one}" for one in page.evaluate(CHECK, {})]
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    found += [f"dark: {one}" for one in page.evaluate(CHECK, CONTRAST)]
    page.set_viewport_size(NARROW)
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    if wide > 0:
        found.append(f"at 360 px it is {wide} px too wide")
    page.set_viewport_size(WIDE)
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return [*found, *([f"at 1280 px it is {wide} px too wide"] if wide > 0 else [])]


def test_every_page_is_accessible(page: Any, scene: Scene) -> None:
    found = {
        name: wrong for name, path in addresses(scene).items() if (wrong := measured(page, path))
    }
    assert found == {}


def test_the_entrance_is_accessible(browser: Any, server: Server) -> None:
    with visiting(browser, server.url, viewport=WIDE) as visit:
        page = visit("/sign-in")
        page.evaluate(axe())
        found = {
            name: wrong for name, path in SIGNED_OUT.items() if (wrong := measured(page, path))
        }
    assert found == {}


def test_dialogs_and_menus_are_accessible(page: Any, scene: Scene) -> None:
    turn_to(page, f"/runs/{scene.release}")
    page.click("text=Cancel run")
    assert page.evaluate(CHECK, {}) == []
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.textContent") == "Cancel run", (
        "the focus goes back"
    )
    page.click("summary[aria-label='More actions']")
    assert page.evaluate(CHECK, {}) == []
    page.keyboard.press("Escape")
    turn_to(page, f"/runs/{scene.release}/tasks/payments?tab=workpad")
    page.click("button:has-text('Edit')")
    assert page.evaluate(CHECK, {}) == []
    page.click("button:has-text('Discard')")


def test_the_keyboard_goes_from_the_top_to_the_page(page: Any, scene: Scene) -> None:
    turn_to(page, f"/runs/{scene.release}")
    assert page.evaluate("document.activeElement.id") == "main", (
        "another page is where the keyboard begins"
    )
    page.reload()
    page.wait_for_selector("text=Cancel run")
    order = []
    for _ in range(24):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate(
                "(document.activeElement.getAttribute('aria-label') || document.activeElement.textContent).trim()"
            )
        )
    assert order[0] == "Skip to the page"
    places = [
        next(n for n, text in enumerate(order) if text.startswith(word))
        for word in ("Runs", "Inbox", "Sign out", "Cancel run", "Overview")
    ]
    assert places == sorted(places), order
    page.evaluate("document.querySelector('.skip').focus()")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
