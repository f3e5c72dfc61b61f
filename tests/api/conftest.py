"""Real servers: `server` with ordinary leases, `brisk` with leases of seconds. Both live as long as the test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import postgres as databases
from api.caller import Api
from api.plane import Server, serving
from flakes.store.embedded import ConnectionInfo
from postgres import database, postgres, template

__all__ = ["database", "postgres", "template"]

# The sandboxes of shared worlds are not connected, and what they run has to outlive the whole test run.
SETTINGS = {"leases": {"heartbeatS": 1.0, "lostAfterS": 3600.0}, "auth": {"signUp": True}}
BRISK = {
    "leases": {"heartbeatS": 0.5, "suspectAfterS": 2.0, "lostAfterS": 3.0, "offerTimeoutS": 1.0},
    "capacity": {"idleRetireS": 1.0, "launchTimeoutS": 2.0, "launchBackoffS": 1.0},
}


@pytest.fixture(scope="session")
def server(
    postgres: ConnectionInfo, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with (
        databases._fresh(postgres, template) as dsn,
        serving(tmp_path_factory.mktemp("server"), dsn, SETTINGS) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def brisk(
    postgres: ConnectionInfo, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with (
        databases._fresh(postgres, template) as dsn,
        serving(tmp_path_factory.mktemp("brisk"), dsn, BRISK) as running,
    ):
        yield running


@pytest.fixture
def api(server: Server) -> Api:
    """A fresh account on `server`."""
    return server.account()


@pytest.fixture
def other(server: Server) -> Api:
    """Another account on the same server."""
    return server.account()


@pytest.fixture
def quick(brisk: Server) -> Api:
    """A fresh account on `brisk`."""
    return brisk.account()
