"""Two servers over one database and one blob directory, and the same account on both."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.caller import Api
from api.plane import Server
from embedded_servers import wait_until


@dataclass
class Pair:
    """`first` started first, and so leads until it goes."""

    first: Server
    second: Server

    def accounts(self) -> tuple[Api, Api]:
        """A fresh account, as each server is called for it."""
        one = self.first.account()
        return one, Api(self.second.url, one.token)

    def wait_acquainted(self) -> None:
        """Until each knows that it is not alone, and listens to the other."""
        with self.first.connect() as conn:
            listening = (
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and application_name = 'flakes server: listening' and state = 'idle'"
            )
            wait_until(lambda: conn.execute(listening).fetchone() == (2,))

    def leader(self) -> Server:
        """The one that runs the singleton loops, once somebody does."""
        found: list[Server] = []

        def somebody_leads() -> bool:
            running = [s for s in (self.first, self.second) if s.is_running()]
            found[:] = [s for s in running if Api(s.url, None).get("/readyz").json["leading"]]
            return len(found) == 1

        wait_until(somebody_leads)
        return found[0]


@contextlib.contextmanager
def paired(
    directory: Path, dsn: str, sections: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[Pair]:
    """Two servers that know of each other."""
    shared = dict(sections or {}) | {"blobs": {"directory": str(directory / "blobs")}}
    servers: list[Server] = []
    for name in ("first", "second"):
        (directory / name).mkdir()
        servers.append(Server(directory / name, dsn, shared))
    pair = Pair(*servers)
    try:
        for server in servers:
            server.start()
        pair.wait_acquainted()
        yield pair
    finally:
        for server in servers:
            server.stop()


def median_s(what: str, samples: list[float]) -> float:
    """The median, and all of them in the output of a test that fails."""
    sys.stdout.write(f"{what}: {', '.join(f'{1000 * s:.0f} ms' for s in samples)}\n")
    return sorted(samples)[len(samples) // 2]


@contextlib.contextmanager
def timed(samples: list[float]) -> Iterator[None]:
    """How long the block takes."""
    began_s = time.monotonic()
    yield
    samples.append(time.monotonic() - began_s)
