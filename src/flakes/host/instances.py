"""What the host remembers of its instances: one directory each, which outlives the host process.

    <stateDir>/instances/<instanceId>/
        record.json         who it is and which process runs it; written last, removed first
        sandbox.toml        the daemon's configuration
        sandbox.credential  its token, 0600
        daemon.log          its stdout and stderr
        state/              the daemon's own: journal and task directories

A directory without a record is a leftover of an interrupted creation or removal: nothing was started
from it, or all of it is dead. Files are replaced atomically, so a reader sees the old or the new one.
This module knows nothing of processes; ids that come from outside are checked before they are paths.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import msgspec

from flakes.host.privacy import CUT, tail
from flakes.host.providers.base import LaunchSpec, Provider
from flakes.wire import config as configuration
from flakes.wire.addresses import Addresses
from flakes.wire.codec import BodyError, Frozen, decode, encode
from flakes.wire.config import HostConfig, PoolConfig, SandboxConfig
from flakes.wire.errors import ApiError
from flakes.wire.host_stream import Launch

LOG_SIZE_BYTES_MAX = 16 * 1024 * 1024
"""A log larger than this is set aside (`daemon.log.1`) when its daemon starts again."""
TAIL_LENGTH_MAX = 350
"""Characters of a log that fit into a reason beside its sentence."""
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Record(Frozen, frozen=True, kw_only=True):
    """`record.json`."""

    instance_id: str
    sandbox_id: str
    pool_key: str
    provider: str
    host_id: str
    argv: list[str]
    pid: int = 0
    """0 until the daemon's process exists (or while it is known that none does)."""
    start: str = ""
    stopping: bool = False
    """The control plane ordered the end: whatever happens, it is not started again."""


class UnsafeIdError(ValueError):
    """An id from outside that cannot be a directory name."""


class Instances:
    """The instances of one state directory. Methods do blocking I/O on small files."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "instances"
        self.project_root: str | None = None
        """What the control plane says of it; daemons that are made from now on know it."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def directory(self, instance_id: str) -> Path:
        """Raises `UnsafeIdError`."""
        if not _SAFE_ID.match(instance_id):
            raise UnsafeIdError(f"not an id: {instance_id[:100]!r}")
        return self._root / instance_id

    def spec(self, record: Record) -> LaunchSpec:
        """What a provider gets to know of an instance."""
        directory = self.directory(record.instance_id)
        return LaunchSpec(
            instance_id=record.instance_id,
            sandbox_id=record.sandbox_id,
            argv=tuple(record.argv),
            directory=directory,
            log=directory / "daemon.log",
        )

    def create(
        self,
        launch: Launch,
        pool: PoolConfig,
        config: HostConfig,
        daemon_argv: tuple[str, ...],
        provider: Provider,
    ) -> Record:
        """Write everything a daemon needs to start, as the provider arranges it. The record comes last."""
        if not _SAFE_ID.match(launch.sandbox_id):
            raise UnsafeIdError(f"not an id: {launch.sandbox_id[:100]!r}")
        directory = self.directory(launch.instance_id)
        directory.mkdir(mode=0o700, exist_ok=True)
        state = directory / "state"
        state.mkdir(mode=0o700, exist_ok=True)
        self.write_credential(launch.instance_id, launch.sandbox_token)
        sandbox = SandboxConfig(
            control_plane_url=config.control_plane_url,
            sandbox_id=launch.sandbox_id,
            credential_file=str(directory / "sandbox.credential"),
            state_dir=str(state),
            adapters=[pool.adapter],
            capabilities=pool.advertised_capabilities,
            max_concurrency=pool.max_concurrency,
            env=pool.env,
            agent=pool.agent,
            sessions_dir=str(self._root.parent / "sessions"),
            project_root=self.project_root,
            workspaces_dir=str(self._root.parent / "workspaces"),
            log_format=config.log_format,
        )
        toml = directory / "sandbox.toml"
        hidden = self.hidden(config)
        argv, sandbox = provider.arrange(pool, sandbox, daemon_argv, directory, hidden)
        _replace(toml, to_toml(msgspec.to_builtins(sandbox)).encode())
        record = Record(
            instance_id=launch.instance_id,
            sandbox_id=launch.sandbox_id,
            pool_key=pool.pool_key,
            provider=pool.provider,
            host_id=config.host_id,
            argv=list(argv),
        )
        self.save(record)
        return record

    def hidden(self, config: HostConfig) -> list[Path]:
        """The directories and files that no task may see, links resolved."""
        return [self._root.parent.resolve(), Path(config.credential_file).resolve()]

    def write_credential(self, instance_id: str, token: str) -> None:
        """Give an instance its token, or a newer one."""
        _replace(self.directory(instance_id) / "sandbox.credential", token.encode() + b"\n")

    def save(self, record: Record) -> None:
        _replace(self.directory(record.instance_id) / "record.json", encode(record))

    def records(self) -> list[Record]:
        """Every instance that was created and not removed, oldest id first."""
        found: list[Record] = []
        for path in sorted(self._root.glob("*/record.json")):
            try:
                record = decode(path.read_bytes(), Record)
            except (OSError, BodyError):
                continue
            if record.instance_id == path.parent.name:
                found.append(record)
        return found

    def leftovers(self) -> list[Path]:
        """Directories that are no instance (any more)."""
        known = {record.instance_id for record in self.records()}
        return [path for path in self._root.iterdir() if path.is_dir() and path.name not in known]

    def move_control_plane(self, record: Record, url: Addresses) -> bool:
        """Point an instance to the control plane's present address; whether that changed anything."""
        path = self.directory(record.instance_id) / "sandbox.toml"
        try:
            sandbox = configuration.load(path, SandboxConfig)
        except ApiError:
            return False  # the daemon will say what is wrong with it
        if sandbox.control_plane_url == url:
            return False
        sandbox = msgspec.structs.replace(sandbox, control_plane_url=url)
        _replace(path, to_toml(msgspec.to_builtins(sandbox)).encode())
        return True

    def rotate_log(self, record: Record) -> None:
        """Set a large log aside; only while no daemon writes to it."""
        log = self.spec(record).log
        if log.exists() and log.stat().st_size > LOG_SIZE_BYTES_MAX:
            log.replace(log.with_suffix(".log.1"))

    def log_tail(self, record: Record) -> str:
        """The end of the daemon's log as printable text, without the token; may be empty."""
        directory = self.directory(record.instance_id)
        try:
            with (directory / "daemon.log").open("rb") as log:
                log.seek(0, os.SEEK_END)
                begin = max(0, log.tell() - 8 * TAIL_LENGTH_MAX)
                log.seek(begin)
                text = _CONTROL.sub("", log.read().decode("utf-8", "replace")).strip()
                text = CUT + text if begin else text
            token = (directory / "sandbox.credential").read_text().strip()
        except OSError:
            return ""
        text = text.replace(token, "[redacted]") if token else text
        return tail(text, TAIL_LENGTH_MAX)

    def remove(self, directory: Path) -> None:
        """Delete an instance's directory, whatever modes its tasks left behind. What cannot be
        deleted stays a leftover, and the next start tries again. Raises `OSError` never."""
        (directory / "record.json").unlink(missing_ok=True)
        shutil.rmtree(directory, onerror=_make_writable)


def _make_writable(function: Any, path: str, _: Any) -> None:
    """Tools leave read-only directories behind (module caches): open them up and try again."""
    try:
        os.chmod(os.path.dirname(path), stat.S_IRWXU)  # noqa: PTH101, PTH120
        if os.path.islink(path) or not os.path.isdir(path):  # noqa: PTH112, PTH114
            os.unlink(path)  # noqa: PTH108
            return
        os.chmod(path, stat.S_IRWXU)  # noqa: PTH101
        if function is os.rmdir:
            os.rmdir(path)  # noqa: PTH106
        else:
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass


def _replace(path: Path, content: bytes) -> None:
    """Write a private file so that a crash leaves either the old content or the new one."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def to_toml(values: dict[str, Any]) -> str:
    """TOML of a mapping whose values are text, numbers, booleans, lists of text, or one more level of
    such a mapping; None is left out."""
    lines = [f"{_key(k)} = {_value(v)}" for k, v in values.items() if _is_plain(v)]
    for name, inner in values.items():
        if isinstance(inner, dict):
            lines += [
                "",
                f"[{_key(name)}]",
                *(f"{_key(k)} = {_value(v)}" for k, v in inner.items() if v is not None),
            ]
    return "\n".join(lines) + "\n"


def _is_plain(value: object) -> bool:
    return value is not None and not isinstance(value, dict)


def _key(name: str) -> str:
    return name if _BARE_KEY.match(name) else _value(name)


def _value(value: object) -> str:
    # JSON and TOML write text, numbers, booleans and lists of them alike, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
