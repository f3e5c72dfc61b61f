"""The host process: puts the parts together, and turns signals into an orderly end.

Exits 0 after SIGTERM or SIGINT, with everything it started stopped. A configuration that cannot work is
refused before anything starts, as an `ApiError` of code `config_invalid`. Nothing else ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import platform
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Final, TextIO, cast

import structlog
import uvloop

from flakes import __version__
from flakes.host import pools
from flakes.host.agents import with_agents
from flakes.host.bindings import Projects
from flakes.host.instances import Instances
from flakes.host.privacy import Privacy
from flakes.host.providers import PROVIDERS
from flakes.host.providers.base import Provider
from flakes.host.provisioning import Provisioning
from flakes.host.uplink import Uplink, stream_urls
from flakes.log_stream import LogStream
from flakes.wire import config as configuration
from flakes.wire.config import HostConfig, PoolConfig
from flakes.wire.errors import ApiError
from flakes.wire.host_stream import (
    PROTOCOL,
    Bindings,
    Downstream,
    Hello,
    Launch,
    PoolAdvertisement,
    Stop,
    Welcome,
)

DAEMON_ARGV: Final = (sys.executable, "-P", "-m", "flakes.sandbox")
"""`--config <path>` follows. -P: the instance's directory is not a place to import from."""

log = structlog.get_logger("flakes.host")


def run(
    config: HostConfig, *, daemon_argv: tuple[str, ...] = DAEMON_ARGV, path: Path | None = None
) -> int:
    """Run the host until it is told to end; the exit code. Raises `ApiError` (`config_invalid`) before
    anything was started. `daemon_argv` is the command that `--config <sandbox.toml>` is appended to;
    `path` is where the configuration came from."""
    configure_logs(config.log_format)
    config = with_agents(config)
    providers = {name: make() for name, make in PROVIDERS.items()}
    with configuration.locating(path) if path else contextlib.nullcontext():
        state_dir = state_directory(config)
        hidden = [state_dir.resolve(), Path(config.credential_file).resolve()]
        pools.check(config.pools, providers, hidden)
        stream_urls(config)
    configuration.credential(Path(config.credential_file))
    lock = _lock(state_dir)
    try:
        uvloop.run(_serve(config, state_dir, daemon_argv, providers))
    finally:
        os.close(lock)
    return 0


def state_directory(config: HostConfig) -> Path:
    """Where the host keeps its instances: `stateDir`, or a directory beside the credential file that is
    named after it (`host.credential` → `host.state`)."""
    if config.state_dir is None:
        return Path(config.credential_file).with_suffix(".state")
    path = Path(config.state_dir)
    if not path.is_absolute():
        raise ApiError(
            "config_invalid",
            f"stateDir: `{config.state_dir}` is not an absolute path",
            "write the full path",
        )
    return path


def configure_logs(log_format: str) -> None:
    """Structured lines on stderr: `text` for people, `json` for machines."""
    as_json = log_format == "json"
    render = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if as_json else []),
            render,
        ],
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, LogStream(sys.stderr))),
    )


def command(argv: list[str]) -> int:
    """`run --config PATH`; a refusal is printed with its fix."""
    parser = argparse.ArgumentParser(prog="python -m flakes.host")
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run", help="lend this machine's capacity to the control plane")
    running.add_argument("--config", type=Path, required=True, metavar="PATH")
    path: Path = parser.parse_args(argv).config
    try:
        return run(configuration.load(path, HostConfig), path=path)
    except ApiError as error:
        sys.stderr.write(f"error: {error.message}\nfix: {error.fix}\n")
        return error.exit_code


async def _advertise(pool: PoolConfig, provider: Provider) -> PoolAdvertisement:
    """What the control plane gets to know of a pool, and the log of its isolation."""
    reason = await provider.unavailable(pool)
    if reason:
        log.error("pool_unavailable", pool=pool.pool_key, provider=pool.provider, reason=reason)
    else:
        log.info("pool", pool=pool.pool_key, provider=pool.provider, isolation=provider.isolation)
    return pools.advertise(pool, reason)


async def _serve(
    config: HostConfig,
    state_dir: Path,
    daemon_argv: tuple[str, ...],
    providers: dict[str, Provider],
) -> None:
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)

    boot = secrets.token_hex(8)
    advertisements = [await _advertise(pool, providers[pool.provider]) for pool in config.pools]

    def hello() -> Hello:
        return Hello(
            protocol=PROTOCOL,
            host_id=config.host_id,
            boot=boot,
            version=__version__,
            platform=platform.system().lower(),
            arch=platform.machine().lower(),
            pools=advertisements,
            instances=provisioning.inventory(),
        )

    def welcomed(sent: Hello, _: Welcome) -> None:
        provisioning.welcomed(sent.instances)

    def receive(order: Downstream) -> None:
        if isinstance(order, Launch):
            provisioning.launch(order)
        elif isinstance(order, Stop):
            provisioning.stop(order)
        elif isinstance(order, Bindings):
            instances.project_root = order.root
            projects.take(order)

    uplink = Uplink(
        config, hello, welcomed, receive,
        count=lambda: provisioning.count(), outgoing=Privacy(config, state_dir).outgoing,
    )  # fmt: skip
    projects = Projects([pool.pool_key for pool in config.pools], uplink.report)
    instances = Instances(state_dir)
    provisioning = Provisioning(
        config,
        instances,
        providers,
        daemon_argv,
        report=uplink.report,
        is_connected=lambda: uplink.is_connected,
    )
    log.info("host_started", host=config.host_id, pid=os.getpid(), state_dir=str(state_dir))
    # The first inventory must be whole, so what exists is found before the line goes up.
    await provisioning.adopt()
    line = asyncio.create_task(uplink.run())
    looking = asyncio.create_task(projects.watch())
    await end.wait()
    looking.cancel()
    log.info("host_stopping", instances=provisioning.count())
    await provisioning.shutdown()
    await uplink.close()
    line.cancel()
    await asyncio.gather(line, looking, return_exceptions=True)
    log.info("host_stopped")


def is_running(state_dir: Path) -> bool:
    """Whether a host process works in that directory now."""
    try:
        lock = os.open(state_dir / "host.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _take(lock: int) -> None:
    """Lock, or `BlockingIOError`; `is_running` holds it for a moment."""
    for pause_s in (0.02, 0.05, 0.1, None):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if pause_s is None:
                raise
            time.sleep(pause_s)


def _lock(state_dir: Path) -> int:
    """Two hosts over one state directory would both restart the same daemons: the second is refused.
    The kernel drops the lock with the process, however that ends."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(state_dir / "host.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ApiError(
            "config_invalid",
            f"stateDir: {state_dir} cannot be used: {error.strerror}",
            "point stateDir to a directory that this user may write to",
        ) from error
    try:
        _take(lock)
    except BlockingIOError:
        os.close(lock)
        raise ApiError(
            "config_invalid",
            f"stateDir: another host process works in {state_dir}",
            "stop that one, or give each host its own stateDir",
        ) from None
    return lock
