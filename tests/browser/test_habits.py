"""Habits: the keyboard, addresses of every view, time, notifications, a connection that is lost, errors that help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from api.caller import Api, task
from api.peer import adapter, beating, sandbox
from api.plane import Server
from browser.conftest import Open, account, visiting
from browser.pages import turn_to


@pytest.fixture(scope="module")
def newcomer(browser: Any, server: Server) -> Iterator[Any]:
    """The console of somebody who has nothing yet."""
    api = account(server)
    with visiting(browser, api.url, api) as visit:
        yield visit("/runs")


PLACES = {
    "i": "Inbox", "p": "Projects", "h": "Hosts", "s": "Sandboxes", "d": None, "a": "Account", "n": "New run", "r": "Runs",
}  # fmt: skip


def test_every_place_has_its_keys(visit: Open) -> None:
    page = visit("/runs")
    for key, title in PLACES.items():
        page.keyboard.press("g")
        page.keyboard.press(key)
        if title:
            page.wait_for_selector(f"h1:has-text('{title}')")
        else:
            page.wait_for_selector("article.prose")
    page.keyboard.press("?")
    page.wait_for_selector("dialog:has-text('Keyboard')")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")


def test_rows_are_walked_and_opened(visit: Open, api: Api) -> None:
    runs = [
        api.graph(task("only"), name=f"Run number {n}", key=f"walk-{n}-{adapter()}")["run"]
        for n in range(3)
    ]
    page = visit("/runs")
    page.wait_for_selector("text=Run number 0")
    for _ in range(2):
        page.keyboard.press("j")
    assert page.evaluate("document.activeElement.textContent") == "Run number 1"
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Run number 2')")
    page.go_back()
    page.wait_for_selector("text=Run number 0")
    page.keyboard.press("/")
    page.keyboard.type("number 0")
    page.wait_for_selector("text=Run number 2", state="detached")
    page.wait_for_selector("text=Run number 0")
    assert page.locator("[role=row] .cover").count() == 1
    assert page.url.endswith("/console/runs?q=number+0")
    page.goto(f"{api.url}/console/projects")
    page.wait_for_selector(f"text={runs[0]['projectKey']}")
    page.keyboard.press("/")
    page.wait_for_selector("h1:has-text('Runs')")
    page.wait_for_selector("input[type=search]:focus")


def test_every_view_and_selection_has_an_address(visit: Open, api: Api) -> None:
    run = api.graph(task("first"), task("second", dependsOn=["first"]))["run"]["runKey"]
    page = visit(f"/runs/{run}")
    page.click("role=tab[name=Timeline]")
    page.click("[aria-label=Status] >> text=Blocked")
    page.fill("section[aria-label=Tasks] input[type=search]", "sec")
    page.wait_for_url("**/*find=sec*")
    again = page.context.new_page()
    again.goto(page.url)
    again.wait_for_selector("role=tab[name=Timeline][selected]")
    again.wait_for_selector("[role=row] .cover:has-text('second')")
    assert again.locator("[role=row] .cover").count() == 1
    again.click("role=tab[name=Metrics]")
    again.wait_for_selector(".tile")
    again.go_back()
    again.close()
    for sort in ("Run", "Project"):
        page.goto(f"{api.url}/console/runs?state=QUEUED")
        page.click(f"role=columnheader >> text={sort}")
        page.wait_for_url("**/*sort=*")
        page.wait_for_selector("[aria-sort=descending]")
        page.click(f"role=columnheader >> text={sort}")
        page.wait_for_selector("[aria-sort=ascending]")


def test_moments_are_relative_on_screen_and_local_on_hover(browser: Any, server: Server) -> None:
    api = account(server)
    api.graph(task("only"))
    with visiting(browser, api.url, api, timezone_id="Asia/Tokyo", locale="de-DE") as visit:
        page = visit("/runs")
        page.wait_for_selector("time")
        found = page.evaluate(
            "[...document.querySelectorAll('[role=row] time')].map((t) => [t.dateTime, t.title, t.textContent])"
        )
        assert found
        for exact, title, shown in found:
            told = page.evaluate(
                "(at) => new Intl.DateTimeFormat('de-DE', {dateStyle: 'medium', timeStyle: 'medium', timeZone: 'Asia/Tokyo'}).format(new Date(at))",
                exact,
            )
            assert title == told
            assert shown == "now" or shown.endswith(" ago")


def test_notifications_are_asked_for_and_shown(browser: Any, server: Server) -> None:
    api, own = account(server), adapter()
    with visiting(browser, api.url, api, permissions=["notifications"]) as visit:
        page = visit("/inbox")
        page.evaluate(
            """() => {
                window.shown = [];
                window.Notification = class { static permission = "granted"; static requestPermission = async () => "granted";
                    constructor(title, options) { window.shown.push([title, options.body]); } close() {} };
            }"""
        )
        page.click("text=Notify me")
        page.wait_for_selector("text=Notifications are on")
        page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true}), document.dispatchEvent(new Event('visibilitychange'))"
        )
        run = api.graph(task("only", own), name="Overnight", close=True)["run"]
        with sandbox(api, adapters=[own]) as peer, beating(peer):
            peer.finish(peer.start().assignment_id)
            page.wait_for_function("() => window.shown.length > 0")
        assert page.evaluate("window.shown") == [["Overnight: succeeded", run["runKey"]]]


def test_a_lost_connection_is_said_and_nothing_is_missed(visit: Open, api: Api) -> None:
    own = adapter()
    run = api.graph(task("first", own), task("second", own, dependsOn=["first"]))["run"]["runKey"]
    page = visit(f"/runs/{run}")
    page.wait_for_selector(".side .connection.live")
    page.context.set_offline(True)
    # A browser lets streams that are open go on; the console's own end of it does not.
    page.evaluate("dispatchEvent(new Event('online'))")
    page.wait_for_selector(".side .connection.lost:has-text('Reconnecting')")
    with sandbox(api, adapters=[own]) as peer, beating(peer):
        peer.finish(peer.start().assignment_id)
        peer.start()
        assert page.locator(".node.is-SUCCEEDED").count() == 0
        page.context.set_offline(False)
        page.wait_for_selector(".side .connection.live")
        page.wait_for_selector(".node.is-SUCCEEDED")
        page.wait_for_selector(".node.is-RUNNING")


@pytest.mark.parametrize(
    ("path", "says", "helps"),
    [
        ("/runs/there-is-none", "no such run", None), ("/nowhere", "Nothing is at this address", "Go to the runs"),
        ("/hosts/host_none", "no such host", None), ("/sandboxes/sandbox_none", "no such sandbox", None),
        ("/projects/none", "no such project", None), ("/docs/guide/none", "no such", None), ("/runs", "No runs yet", "flakes run"),
        ("/hosts", "No hosts", "flakes host setup"), ("/sandboxes", "No sandboxes yet", None), ("/projects", "No projects yet", "Make the first"),
        ("/inbox", "Nothing waits for you", None), ("/account?tab=keys", "No API keys", None), ("/runs?q=xyzzy", "No run matches", "Show all runs"),
    ],
)  # fmt: skip
def test_nothing_and_errors_say_what_to_do(
    newcomer: Any, path: str, says: str, helps: str | None
) -> None:
    turn_to(newcomer, path)
    newcomer.wait_for_selector(f"main >> text={says}")
    assert helps is None or helps in newcomer.inner_text("main")


def test_the_theme_is_kept(visit: Open) -> None:
    page = visit("/runs")
    background = page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
    page.click("text=Theme: system")
    page.click("text=Theme: light")
    page.wait_for_selector("text=Theme: dark")
    dark = page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
    assert dark != background
    page.reload()
    page.wait_for_selector("text=Theme: dark")
    assert page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor") == dark


def test_the_map_is_moved_zoomed_and_lights_a_lineage(visit: Open, api: Api) -> None:
    run = api.graph(task("a"), task("b", dependsOn=["a"]), task("c"))["run"]["runKey"]
    page = visit(f"/runs/{run}")
    page.wait_for_selector(".node >> nth=2")

    def scale() -> float:
        return page.evaluate(
            "new DOMMatrix(getComputedStyle(document.querySelector('.map-plane')).transform).a"
        )

    fitted = scale()
    page.focus(".map")
    page.keyboard.press("+")
    page.wait_for_function(
        "(was) => new DOMMatrix(getComputedStyle(document.querySelector('.map-plane')).transform).a > was",
        arg=fitted,
    )
    page.keyboard.press("0")
    page.wait_for_function(
        "(was) => new DOMMatrix(getComputedStyle(document.querySelector('.map-plane')).transform).a === was",
        arg=fitted,
    )
    box = page.locator(".map").bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + 68, box["y"] + 38, steps=4)
    page.mouse.up()
    page.hover(".node:has-text('b')")
    page.wait_for_selector(".node.faint:has-text('c')")
    assert page.locator(".node.faint").count() == 1
    page.wait_for_selector(".edge.lit", state="attached")
    page.click("text=Full")
    page.wait_for_selector(".map.full")
    page.focus(".map")
    page.keyboard.press("Escape")
    page.wait_for_selector(".map:not(.full)")
    page.click(".node:has-text('b')")
    page.wait_for_selector("h1:has-text('b')")


def test_narrow_windows_have_a_drawer(browser: Any, server: Server) -> None:
    api = account(server)
    with visiting(browser, api.url, api, viewport={"width": 360, "height": 700}) as visit:
        page = visit("/runs")
        assert not page.is_visible("nav >> text=Hosts")
        page.click("button[aria-label=Menu]")
        page.click("nav >> text=Hosts")
        page.wait_for_selector("h1:has-text('Hosts')")
        page.wait_for_selector("nav >> text=Runs", state="hidden")


def test_documents_are_found(visit: Open) -> None:
    page = visit("/docs")
    page.wait_for_selector("h1")
    page.keyboard.press("/")
    page.keyboard.type("workpad")
    page.wait_for_selector(".hits a")
    page.click(".hits a >> nth=0")
    page.wait_for_selector("article.prose")
    assert "#" in page.url
