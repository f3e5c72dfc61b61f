"""A real server and a real browser, signed in through a one-time link. Skipped where there is no Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import postgres as databases
from api.caller import Api
from api.plane import Server, serving
from flakes.store.embedded import ConnectionInfo
from postgres import postgres, template

__all__ = ["postgres", "template"]

FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
SETTINGS = {"leases": {"heartbeatS": 1.0}, "auth": {"signUp": True}}
PATIENCE_MS = 30_000

Open = Callable[[str], Any]


@pytest.fixture(scope="session")
def server(
    postgres: ConnectionInfo, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with (
        databases._fresh(postgres, template) as dsn,
        serving(tmp_path_factory.mktemp("server"), dsn, SETTINGS) as running,
    ):
        yield running


@pytest.fixture
def api(server: Server) -> Api:
    return account(server)


def account(server: Server) -> Api:
    """A new account."""
    # In a thread of its own: the driver of the browser keeps an event loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(server.account).result()


@pytest.fixture(
    scope="module"
)  # its driver keeps an event loop running, which other tests must not meet
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on PATH; on Debian: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as started:
        running = started.chromium.launch(executable_path=str(Path(chromium)), args=FLAGS.split())
        yield running
        running.close()


@contextmanager
def visiting(browser: Any, url: str, api: Api | None = None, **settings: Any) -> Iterator[Open]:
    """Opens pages of the console, as the account if one is given, in a context of its own; no script may fail meanwhile."""
    with ExitStack() as stack:
        context = browser.new_context(**settings)
        stack.callback(context.close)
        with visiting_in(context, url, api) as visit:
            yield visit


@contextmanager
def visiting_in(context: Any, url: str, api: Api | None = None) -> Iterator[Open]:
    """The same, in a context that is there."""
    failures: list[str] = []
    context.set_default_timeout(PATIENCE_MS)
    code = None if api is None else api.post("/v1/auth/browser-links").ok(201)["code"]

    def visit(path: str) -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on(
            "console",
            lambda line: (
                failures.append(line.text) if "Content Security" in line.text else None
            ),
        )
        first = "" if code is None or context.cookies() else f"#link={code}"
        page.goto(f"{url}/console{path}{first}")
        page.wait_for_selector("h1")
        return page

    yield visit
    assert failures == []


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[Any]:
    """One for all tests of a module: what it has loaded of the console it need not load again."""
    made = browser.new_context()
    yield made
    made.close()


@pytest.fixture
def visit(context: Any, api: Api) -> Iterator[Open]:
    """Opens a page of the console as the account, signed in through a one-time link; nothing of it is left afterwards."""
    try:
        with visiting_in(context, api.url, api) as visit:
            yield visit
    finally:
        context.set_offline(False)
        for page in context.pages:
            page.close()
        context.clear_cookies()
        last = context.new_page()
        last.goto(f"{api.url}/livez")
        last.evaluate("localStorage.clear()")
        last.close()
