"""A real `flakes server` process for tests: started, killed, started again, stopped; and accounts on its database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from api.caller import Api
from embedded_servers import wait_until
from flakes.store import accounts

START_S = 60.0
SERVERS: dict[str, Server] = {}
"""Every server that was started, by its address: what it printed belongs to what it answered."""


class Server:
    """One server process on a given database. `url` changes with every start: each takes a free port."""

    def __init__(
        self, directory: Path, dsn: str, sections: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.directory = directory
        self.dsn = dsn
        self.url = ""
        self._sections = sections or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Server:
        ready = self.directory / "ready.json"
        ready.unlink(missing_ok=True)
        config = self.directory / "server.toml"
        config.write_text(self._toml())
        environment = {
            name: value
            for name, value in os.environ.items()
            if name != "DATABASE_URL" and not name.startswith("FLAKES_")
        }
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flakes.server", "--config", str(config)],
                env=environment | {"FLAKES_READY_FILE": str(ready)},
                stdout=log,
                stderr=log,
            )

        def is_ready() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log_file.read_text()[-4000:]
            return ready.exists()

        wait_until(is_ready, START_S)
        self.url = msgspec.json.decode(ready.read_bytes())["server"]
        SERVERS[self.url] = self
        return self

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to go; its exit code."""
        return self._end(signal.SIGTERM)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_file(self) -> Path:
        return self.directory / "server.log"

    def owner(self) -> Api:
        """The account that the server itself keeps."""
        return Api(self.url, (self.directory / "owner.credential").read_text().strip())

    def account(self, name: str = "") -> Api:
        """A new account, put into the database directly."""
        token = asyncio.run(_account(self.dsn, name or f"account-{secrets.token_hex(4)}"))
        return Api(self.url, token)

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.dsn, autocommit=True)

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            return self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()

    def _toml(self) -> str:
        sections: dict[str, dict[str, Any]] = {
            "listen": {"port": 0},
            "database": {"url": self.dsn},
            "blobs": {"directory": str(self.directory / "blobs")},
            "auth": {"localCredentialFile": str(self.directory / "owner.credential")},
        }
        for name, values in self._sections.items():
            sections[name] = sections.get(name, {}) | dict(values)
        return _toml(sections)


def _toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[str] = []
    for name, values in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


async def _account(dsn: str, name: str) -> str:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        user_id = await accounts.create_user(conn, name)
        return await accounts.issue_token(conn, "user", user_id, user_id, "a test")


@contextlib.contextmanager
def serving(
    directory: Path, dsn: str, sections: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[Server]:
    """A server that is gone when the block ends, whatever happened in it."""
    server = Server(directory, dsn, sections)
    try:
        yield server.start()
    finally:
        server.stop()
