"""What a provider is: it starts one sandbox daemon an instance, watches it and removes all of it.

Call order for one instance, by one supervisor, never two calls at the same time:

    arrange                        what the instance's files will say
    launch | adopt                 a handle; `adopt` answers None when nothing runs any more
    wait_exit                      cancellable; may be called again for the same handle
    launch ...                     again after an exit, on the same directory
    stop                           once, with the handle, while the daemon may still run
    cleanup                        after the daemon ended by itself

Calls for different instances run side by side, so a provider guards what they share. No call may block
the event loop. `stop` and `cleanup` are idempotent, and when they return nothing of the instance runs,
except what they name in their answer. A provider owns no files: the directory belongs to the caller. A token is
never on a command line: the daemon reads it from the file that its configuration names.

Before that, for a pool: `check` refuses settings that cannot work or would be ignored, and `unavailable` says why
this machine cannot do it at present. A provider that isolates never does less than its name says: it is
unavailable instead.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flakes.wire.config import Isolation, PoolConfig, SandboxConfig
from flakes.wire.errors import ApiError


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """All that a provider needs to know of an instance."""

    instance_id: str
    sandbox_id: str
    argv: tuple[str, ...]
    """What `arrange` answered."""
    directory: Path
    """The instance's own directory; the daemon's files are below it. Exists before `launch`."""
    log: Path
    """Where the daemon's stdout and stderr are appended."""


@dataclass(frozen=True, slots=True)
class Handle:
    """A running daemon: its pid and its start (see `processes`). Where the daemon is no process of this
    machine `pid` is 0, and `start` is the provider's own name of it."""

    spec: LaunchSpec
    pid: int
    start: str


class LaunchError(Exception):
    """The daemon could not be started; nothing of it runs. The message is for the user."""


class Provider(Protocol):
    """See the module's docstring for order and concurrency."""

    name: str
    isolation: str
    """What stands between a task and the user's account, in words; `core.isolation` has them."""

    def check(self, pool: PoolConfig, where: str, hidden: Sequence[Path]) -> None:
        """Refuse a pool that cannot work, with `config_invalid` naming `where` and the key. No task may be
        shown one of the `hidden` directories."""
        ...

    async def unavailable(self, pool: PoolConfig) -> str:
        """Why nothing of this pool can be launched here at present; empty when it can."""
        ...

    def arrange(
        self,
        pool: PoolConfig,
        sandbox: SandboxConfig,
        daemon_argv: tuple[str, ...],
        directory: Path,
        hidden: Sequence[Path],
    ) -> tuple[tuple[str, ...], SandboxConfig]:
        """The command that `launch` runs, and the configuration that the daemon reads from `sandbox.toml`
        in `directory`. `daemon_argv` starts a daemon on this machine when ``--config PATH`` follows."""
        ...

    async def launch(self, spec: LaunchSpec) -> Handle:
        """Start the daemon; return once it exists. Raises `LaunchError`."""
        ...

    async def adopt(self, spec: LaunchSpec, pid: int, start: str) -> Handle | None:
        """Find the daemon that an earlier host process started. `pid` 0 and no `start`: it never got to
        write down which one it was."""
        ...

    async def wait_exit(self, handle: Handle) -> int | None:
        """Wait until the daemon has ended. Its exit code (negative: a signal), or None where only
        its parent is told and this host process is not that."""
        ...

    async def stop(self, handle: Handle, grace_s: float) -> Sequence[int | str]:
        """Ask the daemon to end, insist after `grace_s`, then kill everything left of the instance.
        Answers the pids (or names) that would not die."""
        ...

    async def cleanup(self, spec: LaunchSpec, pid: int, start: str) -> Sequence[int | str]:
        """Kill everything left of an instance whose daemon has ended. Same answer."""
        ...


SPECIAL_FIELDS = ("network", "read_only", "matchlock_image", "mounts", "executable_paths")


def refuse_fields(pool: PoolConfig, where: str, allowed: Sequence[str]) -> None:
    """Refuse settings that the pool's provider would not act on: none may seem to protect and not do it."""
    defaults = PoolConfig(pool_key="", adapter="")
    for name in SPECIAL_FIELDS:
        if name not in allowed and getattr(pool, name) != getattr(defaults, name):
            key = _camel(name)
            raise ApiError(
                "config_invalid",
                f"{where}.{key}: the provider `{pool.provider}` does not act on it",
                f"remove {key}, or choose a provider that does",
            )


def check_executable(path: str, key: str) -> None:
    """The rules for a program that a configuration names: an absolute path to an executable file, itself
    and not a link, so that nobody exchanges it from elsewhere. Raises `config_invalid`."""
    reason = _why_not_executable(path)
    if reason:
        raise ApiError(
            "config_invalid", f"{key}: {path} {reason}", "write the full path of the program itself"
        )


def bounds(pool: PoolConfig, where: str) -> Isolation:
    """The limits among the pool's `resourceBounds`, as the daemon gets them. Raises `config_invalid`."""
    memory_mb = _bound(pool, where, "memoryMb", whole=True)
    cpus = _bound(pool, where, "cpus", whole=False)
    processes = _bound(pool, where, "processes", whole=True)
    return Isolation(
        memory_mb=None if memory_mb is None else int(memory_mb),
        cpus=None if cpus is None else float(cpus),
        processes=None if processes is None else int(processes),
    )


def _bound(pool: PoolConfig, where: str, name: str, *, whole: bool) -> float | None:
    value = pool.resource_bounds.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or value <= 0 or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise ApiError(
            "config_invalid",
            f"{where}.resourceBounds.{name}: `{value}` is not {kind} above 0",
            f"write for example `{name} = {4096 if name == 'memoryMb' else 2}`",
        )
    return value


def check_shown(path: str, key: str, hidden: Sequence[Path]) -> None:
    """A directory of the machine may be shown to tasks when it exists and holds nothing hidden. Raises
    `config_invalid`."""
    resolved = Path(path).resolve()
    reason = ""
    if not Path(path).is_absolute() or not resolved.exists():
        reason = "is not the absolute path of something that exists"
    for secret in hidden:
        if resolved == secret or resolved in secret.parents or secret in resolved.parents:
            reason = f"would show {secret}, where the host keeps its own"
    if reason:
        raise ApiError(
            "config_invalid", f"{key}: {path} {reason}", "name what tasks need, below it"
        )


def _why_not_executable(path: str) -> str:
    if not os.path.isabs(path):  # noqa: PTH117
        return "is not an absolute path"
    try:
        info = Path(path).lstat()
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    if stat.S_ISLNK(info.st_mode):
        return "is a symlink"
    if not stat.S_ISREG(info.st_mode):
        return "is not a file"
    return "" if os.access(path, os.X_OK) else "is not executable"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)
