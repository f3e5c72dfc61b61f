"""`flakes server`: from a configuration to a serving replica, and back down in order.

Start: the embedded PostgreSQL if no URL is given, migrations, the pool, the loops, then the socket; ready
means serving. Stop: no new requests, streams closed (peers reconnect elsewhere), loops ended, leadership
given up, and the embedded server stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TextIO

import msgspec
import psycopg
import structlog
import uvicorn
from psycopg.conninfo import conninfo_to_dict

from flakes.server.app import build
from flakes.server.logging import configure_logging
from flakes.server.loops.calls import INTERVAL_S as CALLS_S
from flakes.server.loops.calls import Calls
from flakes.server.loops.deliveries import INTERVAL_S as DELIVERIES_S
from flakes.server.loops.deliveries import Deliveries
from flakes.server.loops.expiry import INTERVAL_S as EXPIRY_S
from flakes.server.loops.expiry import Expiry
from flakes.server.loops.garbage import INTERVAL_S as GARBAGE_S
from flakes.server.loops.garbage import Garbage
from flakes.server.loops.heartbeats import INTERVAL_S as HEARTBEATS_S
from flakes.server.loops.heartbeats import Heartbeats
from flakes.server.loops.janitor import INTERVAL_S as JANITOR_S
from flakes.server.loops.janitor import Janitor
from flakes.server.loops.leadership import RENEW_S, Leadership
from flakes.server.loops.listening import INTERVAL_S as LISTENING_S
from flakes.server.loops.listening import Listening
from flakes.server.loops.loop import keep_running
from flakes.server.loops.merging import INTERVAL_S as MERGING_S
from flakes.server.loops.merging import Merger
from flakes.server.loops.presence import INTERVAL_S as PRESENCE_S
from flakes.server.loops.presence import Presence
from flakes.server.loops.reaper import INTERVAL_S as REAPER_S
from flakes.server.loops.reaper import Reaper
from flakes.server.loops.revocations import INTERVAL_S as REVOCATIONS_S
from flakes.server.loops.revocations import Revocations
from flakes.server.loops.scheduler import INTERVAL_S as SCHEDULER_S
from flakes.server.loops.scheduler import Scheduler
from flakes.server.loops.tail import IDLE_S as TAIL_S
from flakes.server.loops.tail import Tail
from flakes.server.loops.timers import INTERVAL_S as TIMERS_S
from flakes.server.loops.timers import Timers
from flakes.server.plane import Plane
from flakes.store import accounts, leader, migrate, replicas
from flakes.store.blobs import BlobStore
from flakes.store.database import Database
from flakes.store.embedded import ConnectionInfo, EmbeddedPostgres, EmbeddedPostgresError
from flakes.wire.codec import encode
from flakes.wire.config import ServerConfig
from flakes.wire.errors import CODES, ApiError

log = structlog.get_logger()

GRACE_S = 5
PREDECESSOR_PATIENCE_S = 15.0
"""How long a server on its way out may hold the embedded database."""


def run(config: ServerConfig, *, dry_run: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Refusals to start are raised as `ApiError`."""
    if dry_run:
        sys.stdout.write(msgspec.json.format(encode(summary(config))).decode() + "\n")
        return 0
    configure_logging(config.log_format)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


def summary(config: ServerConfig) -> dict[str, object]:
    """The configuration with secrets left out, as `--dry-run` prints it."""
    url = config.database.url
    redacted = None
    if url:
        parts = conninfo_to_dict(url)
        redacted = {k: v for k, v in parts.items() if k != "password"}
    return msgspec.to_builtins(config) | {
        "database": {"url": redacted, "dataDir": config.database.data_dir, "poolSize": config.database.pool_size}
    }  # fmt: skip


async def _serve(config: ServerConfig) -> int:
    listener = bind(config.listen.host, config.listen.port)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(listener.close)
        dsn, alone = await stack.enter_async_context(_database_server(config))
        database = Database(dsn, size=config.database.pool_size, application="flakes server")
        await asyncio.to_thread(_migrate, dsn)
        await database.open()
        stack.push_async_callback(database.close)
        plane = Plane(config, database, _blobs(config))
        await _local_owner(plane)
        leadership, presence = Leadership(plane), Presence(plane)
        async with database.connection() as conn:
            await replicas.forget(conn, everybody=alone)
            if alone:
                # A predecessor that was killed holds its lease for seconds in which nothing would start.
                await leader.vacate(conn, "loops")
        await presence.run_once()
        await leadership.run_once()
        loops = [
            asyncio.create_task(plane.transitions.run()),
            asyncio.create_task(plane.log_lines.run()),
            asyncio.create_task(plane.transcripts.run()),
            asyncio.create_task(plane.inputs.run()),
            *(asyncio.create_task(loop) for loop in _loops(plane, leadership, presence)),
        ]
        server = _Server(plane, listener)
        try:
            await server.serve([listener])
        finally:
            plane.hub.close_all()
            with contextlib.suppress(psycopg.Error, OSError):
                await leadership.resign()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            with contextlib.suppress(psycopg.Error, OSError):
                await presence.leave()
    return 0


def _loops(
    plane: Plane, leadership: Leadership, presence: Presence
) -> list[Coroutine[Any, Any, None]]:
    return [
        keep_running("leadership", leadership.run_once, interval_s=RENEW_S),
        keep_running("scheduler", Scheduler(plane, leadership).run_once, interval_s=SCHEDULER_S, wake=plane.schedule),
        keep_running("merging", Merger(plane, leadership).run_once, interval_s=MERGING_S, wake=plane.merge),
        keep_running("reaper", Reaper(plane, leadership).run_once, interval_s=REAPER_S),
        keep_running("garbage", Garbage(plane, leadership).run_once, interval_s=GARBAGE_S, wake=plane.garbage),
        keep_running("expiry", Expiry(plane, leadership).run_once, interval_s=EXPIRY_S),
        keep_running("timers", Timers(plane, leadership).run_once, interval_s=TIMERS_S),
        keep_running("presence", presence.run_once, interval_s=PRESENCE_S),
        keep_running("listening", Listening(plane).run_once, interval_s=LISTENING_S),
        keep_running("calls", Calls(plane).run_once, interval_s=CALLS_S, wake=plane.replicas.untold),
        keep_running("deliveries", Deliveries(plane).run_once, interval_s=DELIVERIES_S, wake=plane.undelivered),
        keep_running("revocations", Revocations(plane).run_once, interval_s=REVOCATIONS_S),
        keep_running("heartbeats", Heartbeats(plane).run_once, interval_s=HEARTBEATS_S),
        keep_running("janitor", Janitor(plane, leadership).run_once, interval_s=JANITOR_S, wake=plane.sweep),
        keep_running("tail", Tail(plane).run_once, interval_s=TAIL_S, wake=plane.changed),
    ]  # fmt: skip


class _Server(uvicorn.Server):
    """Uvicorn that says where it listens once it really does."""

    def __init__(self, plane: Plane, listener: socket.socket) -> None:
        super().__init__(uvicorn.Config(
            build(plane), log_config=None, access_log=False, lifespan="off", http="httptools",
            ws="websockets-sansio", ws_max_size=8 * 1024 * 1024, ws_ping_interval=20.0,
            ws_ping_timeout=20.0, timeout_graceful_shutdown=GRACE_S, ws_per_message_deflate=False,
            server_header=False, timeout_keep_alive=75,
            forwarded_allow_ips=plane.config.listen.trusted_proxies,
        ))  # fmt: skip
        self._plane = plane
        self._listener = listener

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own raises the signal again when serving is over, and that would end the process
        before its database is stopped. These handlers stay until the loop is closed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self._listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        sys.stderr.write(f"listening on {url}\n")
        sys.stderr.flush()
        ready = os.environ.get("FLAKES_READY_FILE")
        if ready:
            temporary = Path(f"{ready}.{os.getpid()}")
            temporary.write_bytes(encode({"server": url, "pid": os.getpid()}))
            temporary.replace(ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._plane.hub.close_all()
        self._plane.subscriptions.close()
        self._plane.held.close()
        self._plane.log_readers.close()
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, or `port_in_use`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ApiError("port_in_use", f"cannot listen on {host}:{port}: {error.strerror}", "stop the other program, or choose another port with --port (0 takes a free one)") from error
    listener.listen(1024)
    listener.setblocking(False)
    return listener


@contextlib.asynccontextmanager
async def _database_server(config: ServerConfig) -> AsyncIterator[tuple[str, bool]]:
    """The connection string of the configured database, which may have many servers, or of the embedded
    one, which is kept alive; and whether this is known to be its only server."""
    url = config.database.url or os.environ.get("DATABASE_URL")
    if url:
        yield url, False
        return
    if config.database.data_dir is None:
        raise ApiError("config_invalid", "neither database.url nor database.dataDir is set", "set one of them: a PostgreSQL URL, or a directory for the embedded server")
    data_dir = Path(config.database.data_dir)
    embedded = EmbeddedPostgres(data_dir, log=lambda line: log.info("postgresql", line=line))
    await _start(embedded)
    async with _exclusively(data_dir) as alone:
        info = await _start(embedded)  # a predecessor may have stopped it on its way out
        guard = asyncio.create_task(_keep_alive(embedded))
        try:
            yield info.dsn, alone
        finally:
            guard.cancel()
            await asyncio.gather(guard, return_exceptions=True)
            await asyncio.to_thread(embedded.stop)


async def _start(embedded: EmbeddedPostgres) -> ConnectionInfo:
    try:
        return await asyncio.to_thread(embedded.start)
    except EmbeddedPostgresError as error:
        code = error.code if error.code in CODES else "session_failed"
        raise ApiError(code, error.message, error.fix) from error


@contextlib.asynccontextmanager
async def _exclusively(data_dir: Path) -> AsyncIterator[bool]:
    """Hold the embedded database: it is for one server, and a second is refused. False where that cannot be
    made sure of. The kernel drops the lock with the process, however that ends."""
    try:
        file = data_dir.with_name(f"{data_dir.name}.server.lock").open("a")
    except OSError:
        yield False
        return
    with file:
        give_up_s = time.monotonic() + PREDECESSOR_PATIENCE_S
        while not _locked(file):
            if time.monotonic() > give_up_s:
                raise ApiError("config_invalid", f"another server works on the embedded database in {data_dir}", "stop that one; several servers need a PostgreSQL of their own: set database.url")
            await asyncio.sleep(0.05)
        yield True


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _keep_alive(embedded: EmbeddedPostgres) -> None:
    """Start the embedded server again when it has died."""
    while True:
        await asyncio.sleep(0.5)
        try:
            if not await asyncio.to_thread(embedded.is_running):
                log.warning("postgresql.died")
                await asyncio.to_thread(embedded.start)
        except EmbeddedPostgresError as error:
            log.error("postgresql.start_failed", error=error.message, fix=error.fix)


def _migrate(dsn: str) -> None:
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            for name in migrate.apply(conn):
                log.info("migrated", migration=name)
    except migrate.MigrationError as error:
        code = error.code if error.code in CODES else "session_failed"
        raise ApiError(code, error.message, error.fix) from error
    except psycopg.OperationalError as error:
        raise ApiError("database_unavailable", f"the database does not answer: {str(error).strip()}", "check database.url and that the server runs") from error


def _blobs(config: ServerConfig) -> BlobStore:
    where = config.blobs
    if where.url:
        return BlobStore.open(where.url)
    if where.directory is None:
        if config.database.data_dir is None:
            raise ApiError("config_invalid", "neither blobs.url nor blobs.directory is set", "set one of them")
        return BlobStore.open(Path(config.database.data_dir).parent / "blobs")
    return BlobStore.open(Path(where.directory))


async def _local_owner(plane: Plane) -> None:
    """Keep the one owner account of a local session, and its token where the CLI looks for it."""
    name = plane.config.auth.local_credential_file
    if name is None:
        return
    path = Path(name)
    if path.exists() and await plane.identify(path.read_text().strip()) is not None:
        return
    async with plane.database.transaction() as conn:
        owner_id = await accounts.local_owner(conn)
        token = await accounts.issue_token(conn, "user", owner_id, owner_id, "local session")
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    temporary.replace(path)
