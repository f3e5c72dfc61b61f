"""The process `flakes sandbox`: one daemon over one state directory.

It owns what belongs to a process: the event loop, signals, the log, the lock that keeps a second daemon
out of the same state directory. Standard output stays empty; the log goes to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import resource
import signal
import sys
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, TextIO, cast
from urllib.parse import urlsplit, urlunsplit

import structlog

from flakes.agents.registry import DRIVERS
from flakes.log_stream import LogStream
from flakes.wire.addresses import split
from flakes.wire.config import SandboxConfig, credential
from flakes.wire.errors import ApiError

log = structlog.get_logger(__name__)

LOCK_PATIENCE_S: Final = 15.0
"""How long to wait for an earlier daemon on the same state directory to end."""


def run(config: SandboxConfig, *, dry_run: bool) -> int:
    """Run the daemon until it is drained (0) or stopped (0); 1 when it cannot go on.

    With `dry_run`, check the configuration, print `describe` and connect to nothing. Raises `ApiError`
    (`config_invalid`) for a configuration that cannot work.
    """
    credential(Path(config.credential_file))
    if dry_run:
        sys.stdout.write(json.dumps(describe(config), indent=2) + "\n")
        return 0
    _configure_log(config.log_format)
    state_dir = Path(config.state_dir)
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ApiError(
            "config_invalid",
            f"stateDir {state_dir} cannot be made: {error.strerror}",
            "choose a directory that this user may write",
        ) from error
    _allow_many_files()
    with _locked(state_dir) as free:
        if not free:
            log.error("another daemon uses this state directory", state_dir=str(state_dir))
            return 1
        return _run_loop(_serve(config))


def describe(config: SandboxConfig) -> dict[str, Any]:
    """What would run, as plain values; the credential is never among them."""
    addresses = [_redacted(address) for address in split(config.control_plane_url)]
    return {
        "sandboxId": config.sandbox_id,
        "controlPlaneUrl": addresses[0] if len(addresses) == 1 else addresses,
        "credentialFile": config.credential_file,
        "credential": "[redacted]",
        "stateDir": config.state_dir,
        "adapters": [{"name": name, "known": name in DRIVERS} for name in config.adapters],
        "capabilities": config.capabilities,
        "maxConcurrency": config.max_concurrency,
        "inheritEnv": config.inherit_env,
        "env": dict.fromkeys(config.env, "[redacted]"),
        "keepDirectories": config.keep_directories,
        "logFormat": config.log_format,
        **isolation_description(config),
    }


def isolation_description(config: SandboxConfig) -> dict[str, Any]:
    """What stands between tasks and the machine, and which limits really hold."""
    from flakes.sandbox.isolation import described, isolation_of

    name, degree, reason = described(config, isolation_of(config))
    isolated = config.isolation.kind == "bubblewrap"
    return {
        "isolation": name,
        "networkAllow": config.isolation.network_allow if isolated else None,
        "limits": {"degree": degree, "reason": reason},
    }


def _redacted(address: str) -> str:
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


async def _serve(config: SandboxConfig) -> int:
    # Only here: a dry run needs neither sockets nor SQLite.
    from flakes.sandbox.daemon import Daemon
    from flakes.sandbox.journal import Journal

    try:
        journal = await Journal.open(Path(config.state_dir))
    except OSError as error:
        log.error("no journal", reason=str(error))
        return 1
    try:
        daemon = Daemon(config, journal)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, daemon.stop)
        return await daemon.serve()
    finally:
        await journal.close()


def _run_loop(main: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


@contextlib.contextmanager
def _locked(state_dir: Path) -> Iterator[bool]:
    with (state_dir / "lock").open("a") as file:
        give_up_s = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up_s:
                    yield False
                    return
                time.sleep(0.05)
            else:
                yield True
                return


def _allow_many_files() -> None:
    """Five pipes a running command are more than the usual soft limit bears."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _configure_log(log_format: str) -> None:
    renderer: Any = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, LogStream(sys.stderr))),
        cache_logger_on_first_use=True,
    )
