"""What all tests share: async tests run on asyncio, as the product does; interrupts can be sent."""

from __future__ import annotations

import signal

import pytest

# A run that a shell started in the background ignores SIGINT, and so would every process it starts; the tests
# interrupt some of those.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
