"""A real server and a real browser, signed in through a one-time link. Skipped where there is no Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import postgres as databases
from api.caller import Api
from api.plane import Server, serving
from flakes.store.embedded import ConnectionInfo
from postgres import postgres, template

__all__ = ["postgres", "template"]

FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"


@pytest.fixture(scope="session")
def server(
    postgres: ConnectionInfo, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with (
        databases._fresh(postgres, template) as dsn,
        serving(tmp_path_factory.mktemp("server"), dsn, {"leases": {"heartbeatS": 1.0}}) as running,
    ):
        yield running


@pytest.fixture
def api(server: Server) -> Api:
    # In a thread of its own: the driver of the browser keeps an event loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(server.account).result()


@pytest.fixture(scope="module")  # its driver keeps an event loop running, which other tests must not meet
def browser() -> Iterator[object]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on PATH; on Debian: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as started:
        running = started.chromium.launch(executable_path=str(Path(chromium)), args=FLAGS.split())
        yield running
        running.close()
