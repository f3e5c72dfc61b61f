"""What a provider is: it starts one sandbox daemon an instance, watches it and removes all of it.

Call order for one instance, by one supervisor, never two calls at the same time:

    launch | adopt                 a handle; `adopt` answers None when nothing runs any more
    wait_exit                      cancellable; may be called again for the same handle
    launch ...                     again after an exit, on the same directory
    stop                           once, with the handle, while the daemon may still run
    cleanup                        after the daemon ended by itself

Calls for different instances run side by side, so a provider guards what they share. No call may block
the event loop. `stop` and `cleanup` are idempotent, and when they return nothing of the instance runs,
except what they name in their answer. A provider owns no files: the directory belongs to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """All that a provider needs to know of an instance."""

    instance_id: str
    sandbox_id: str
    argv: tuple[str, ...]
    directory: Path
    """The instance's own directory; the daemon's files are below it. Exists before `launch`."""
    log: Path
    """Where the daemon's stdout and stderr are appended."""


@dataclass(frozen=True, slots=True)
class Handle:
    """A running daemon: its pid and its start (see `processes`)."""

    spec: LaunchSpec
    pid: int
    start: str


class LaunchError(Exception):
    """The daemon could not be started; nothing of it runs. The message is for the user."""


class Provider(Protocol):
    """See the module's docstring for order and concurrency."""

    name: str
    isolation: str
    """What stands between a task and the user's account, in words for the log."""

    async def launch(self, spec: LaunchSpec) -> Handle:
        """Start the daemon; return once its process exists. Raises `LaunchError`."""
        ...

    async def adopt(self, spec: LaunchSpec, pid: int, start: str) -> Handle | None:
        """Find the daemon that an earlier host process started. `pid` 0: it never got to write
        down which one it was."""
        ...

    async def wait_exit(self, handle: Handle) -> int | None:
        """Wait until the daemon has ended. Its exit code (negative: a signal), or None where only
        its parent is told and this host process is not that."""
        ...

    async def stop(self, handle: Handle, grace_s: float) -> list[int]:
        """Ask the daemon to end, insist after `grace_s`, then kill everything left of the instance.
        Answers the pids that would not die."""
        ...

    async def cleanup(self, spec: LaunchSpec, pid: int, start: str) -> list[int]:
        """Kill everything left of an instance whose daemon has ended. Same answer."""
        ...
