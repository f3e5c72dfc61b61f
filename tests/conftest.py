"""What all tests share: async tests run on asyncio, as the product does; interrupts can be sent."""

from __future__ import annotations

import signal

import pytest

# A run that a shell started in the background ignores SIGINT, and so would every process it starts; the tests
# interrupt some of those.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONG = (
    "net/test_storm.py", "browser/", "net/test_replicas.py", "agents/", "net/test_machines.py", "net/test_promotion_queue.py",
    "net/test_workspaces.py", "e2e/", "session/",
)  # fmt: skip
"""Files of few and long tests. They begin first, so that no worker is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of `LONG` first, in that order."""

    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((n for n, part in enumerate(LONG) if f"/tests/{part}" in path), len(LONG))

    items.sort(key=place)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
