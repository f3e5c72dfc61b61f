"""A directory tree that says when something in it has changed: by inotify, so that waiting costs nothing.

Which file it was is not told. Directories that are ignored by the caller are not watched, nor is ``.git``. Where
there is no inotify, or not enough of it, `complete` is False, and whoever waits looks by itself, slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

DIRECTORIES_MAX: Final = 10_000
_CLOSE_WRITE, _MOVED, _CREATE, _DELETE = 0x8, 0xC0, 0x100, 0x200
_ONLYDIR, _DONT_FOLLOW, _ISDIR, _OVERFLOW = 0x01000000, 0x02000000, 0x40000000, 0x4000
_MASK: Final = _CLOSE_WRITE | _MOVED | _CREATE | _DELETE | _ONLYDIR | _DONT_FOLLOW
_HEAD: Final = struct.Struct("iIII")
Ignored = Callable[[Sequence[str]], Collection[str]]
"""Which of these paths, relative to the root, need not be watched; blocking."""


class Watch:
    """See the module. `close` it."""

    def __init__(self, root: Path, ignored: Ignored) -> None:
        self._root = os.fspath(root)
        self._ignored = ignored
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._directories: dict[int, str] = {}
        self.complete = True
        self._fd = -1
        if hasattr(self._libc, "inotify_init1"):
            self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            self.complete = False

    def begin(self) -> None:
        """Watch everything there is; blocking."""
        self._add([""])

    async def changed(self, timeout_s: float | None) -> None:
        """Return when something has changed since the last `settle`, or the time is over."""
        if self._fd < 0:
            await asyncio.sleep(timeout_s if timeout_s is not None else 3600.0)
            return
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._fd, ready.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await ready.wait()
        finally:
            loop.remove_reader(self._fd)

    def settle(self) -> None:
        """Take note of what has happened up to now, and watch the directories that are new; blocking."""
        new: list[str] = []
        while content := self._read():
            at = 0
            while at < len(content):
                wd, mask, _, length = _HEAD.unpack_from(content, at)
                name = os.fsdecode(content[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0"))
                at += _HEAD.size + length
                if mask & _OVERFLOW:
                    new.append("")
                elif mask & _ISDIR and mask & (_CREATE | _MOVED) and wd in self._directories:
                    new.append(os.path.join(self._directories[wd], name))  # noqa: PTH118
        if new:
            self._add(sorted(set(new)))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> bytes:
        if self._fd < 0:
            return b""
        try:
            return os.read(self._fd, 65_536)
        except BlockingIOError:
            return b""

    def _add(self, waiting: list[str]) -> None:
        if self._fd < 0:
            return
        while waiting:
            ignored = set(self._ignored([path for path in waiting if path]))
            below: list[str] = []
            for path in waiting:
                if path not in ignored and os.path.basename(path) != ".git":  # noqa: PTH119
                    below += self._watch(path)
            waiting = below

    def _watch(self, path: str) -> list[str]:
        """Watch one directory; those in it."""
        if len(self._directories) >= DIRECTORIES_MAX:
            self.complete = False
            return []
        whole = os.path.join(self._root, path)  # noqa: PTH118
        wd = self._libc.inotify_add_watch(self._fd, os.fsencode(whole), _MASK)
        if wd < 0:
            # Gone again, or no directory; or as many are watched as the machine allows.
            self.complete = self.complete and ctypes.get_errno() != 28
            return []
        self._directories[wd] = path
        try:
            with os.scandir(whole) as listing:
                return [
                    os.path.join(path, item.name) for item in listing if item.is_dir(follow_symlinks=False)  # noqa: PTH118
                ]
        except OSError:
            return []
