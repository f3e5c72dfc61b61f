"""Limits of a task's memory, processors and processes: what the system lets this daemon enforce, and how.

Control groups, where the daemon may make them below its own (version 1, each controller in its hierarchy; version
2, where the controllers can be switched on), bound a task as a whole. Where they cannot be had, the resource limits
of the kernel bound what they can: writable memory of each process alone, and the number of processes, but of
nobody who is root. Processor time has no such limit. `Limiter.describe` says which of these it is; nothing is called
enforced that is not.

Invariants: a group is removed when its task is gone, or, after a daemon was killed, by its successor.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from flakes.wire.config import Isolation

MIB: Final = 1024 * 1024
CPU_PERIOD_US: Final = 100_000
PREFIX: Final = "flakes-"
CONTROLLERS: Final = ("memory", "cpu", "pids")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_]")
Degree = Literal["enforced", "partly", "none"]


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups can be made: `version` 1 has one directory a controller, 2 one for all."""

    version: int
    parents: dict[str, Path]


@dataclass(slots=True)
class Group:
    """The control groups of one task; empty where there are none."""

    directories: list[Path] = field(default_factory=list)

    def procs(self) -> list[str]:
        """The files to write a process's id into, before it becomes the command."""
        return [str(directory / "cgroup.procs") for directory in self.directories]

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something of it for its memory limit."""
        for directory in self.directories:
            for name in ("memory.events", "memory.oom_control"):
                for line in _read(directory / name).splitlines():
                    word, _, count = line.partition(" ")
                    if word == "oom_kill" and count.strip() not in ("", "0"):
                        return True
        return False

    def remove(self) -> bool:
        """Whether all of it is gone. Only an empty group can be removed."""
        self.directories = [directory for directory in self.directories if not _rmdir(directory)]
        return not self.directories


class Limiter:
    """What a daemon enforces, found out once, at its start."""

    def __init__(self, isolation: Isolation, name: str, *, proc: Path = Path("/proc/self")) -> None:
        self._wanted = {
            "memory": isolation.memory_mb,
            "cpu": isolation.cpus,
            "pids": isolation.processes,
        }
        self._wanted = {key: value for key, value in self._wanted.items() if value is not None}
        self._prefix = f"{PREFIX}{_UNSAFE.sub('-', name)}-"
        self._own = f"{self._prefix}{secrets.token_hex(4)}-"
        self._numbers = itertools.count(1)
        self._spare: Group | None = None
        self._hierarchy = Hierarchy(1, {})
        self._why_not = "there are no control groups here"
        if self._wanted:
            self._look(proc)
        self._by_group = {key for key in self._wanted if key in self._hierarchy.parents}

    def take(self) -> Group:
        """Groups for a task, with their limits written: the spare ones, or new ones. Raises `OSError`."""
        spare, self._spare = self._spare, None
        return spare or self._make()

    def prepare(self) -> None:
        """Have spare groups: making them takes the kernel a while. Called when a task has begun."""
        if self._by_group and self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = self._make()

    def close(self) -> None:
        if self._spare is not None:
            self._spare.remove()

    def _make(self) -> Group:
        group = Group()
        name = f"{self._own}{next(self._numbers)}"
        try:
            for key in sorted(self._by_group):
                directory = self._hierarchy.parents[key] / name
                if directory not in group.directories:
                    directory.mkdir(exist_ok=True)
                    group.directories.append(directory)
                self._write(key, directory)
        except OSError:
            group.remove()
            raise
        return group

    def processes(self) -> int:
        """The limit of processes to set in the task itself; 0 is none."""
        return int(self._wanted.get("pids") or 0) if "pids" not in self._by_group else 0

    def data_bytes(self) -> int:
        """The limit of writable memory of each process; 0 is none."""
        return int((self._wanted.get("memory") or 0) * MIB) if "memory" not in self._by_group else 0

    def describe(self) -> tuple[Degree, str]:
        """How far the limits hold, and a sentence about it."""
        if not self._wanted:
            return "none", "no limits are configured"
        parts = [self._sentence(key) for key in self._wanted]
        degree: Degree = "partly"
        if self._by_group == set(self._wanted):
            degree = "enforced"
        elif not self._by_group and not self._by_rlimit():
            degree = "none"
        text = "; ".join(parts)
        return degree, text if degree == "enforced" else f"{text} ({self._why_not})"

    def remove_stale(self) -> None:
        """Groups that an earlier daemon of this name left behind; those that still die stay for now."""
        for parent in set(self._hierarchy.parents.values()):
            for directory in parent.glob(f"{self._prefix}*"):
                if not directory.name.startswith(self._own):
                    _rmdir(directory)

    def _by_rlimit(self) -> set[str]:
        return {key for key in self._wanted if key not in self._by_group} & (
            {"memory", "pids"} if os.getuid() else {"memory"}
        )

    def _sentence(self, key: str) -> str:
        name = {"memory": "memory", "cpu": "processors", "pids": "processes"}[key]
        if key in self._by_group:
            return f"{name} by cgroup v{self._hierarchy.version}"
        if key not in self._by_rlimit():
            return f"{name} not at all"
        return f"{name} by resource limit" + (" of each process" if key == "memory" else "")

    def _look(self, proc: Path) -> None:
        """Take the first hierarchy in which a group with the wanted limits can really be made."""
        for hierarchy in _hierarchies(proc):
            usable: dict[str, Path] = {}
            for key in self._wanted:
                parent = hierarchy.parents.get(key)
                if parent is None:
                    continue
                try:
                    if hierarchy.version == 2:
                        _switch_on(parent, key)
                    self._try(key, parent)
                except OSError as error:
                    self._why_not = f"cgroup v{hierarchy.version}: {error.strerror}: {parent}"
                else:
                    usable[key] = parent
            if usable:
                self._hierarchy = Hierarchy(hierarchy.version, usable)
                return

    def _try(self, key: str, parent: Path) -> None:
        self._hierarchy = Hierarchy(2 if (parent / "cgroup.controllers").exists() else 1, {})
        directory = parent / f"{self._own}try"
        directory.mkdir(exist_ok=True)
        try:
            self._write(key, directory)
        finally:
            _rmdir(directory)

    def _write(self, key: str, directory: Path) -> None:
        value = self._wanted[key]
        assert value is not None
        v2 = self._hierarchy.version == 2
        if key == "memory":
            (directory / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(
                str(int(value * MIB))
            )
            swap = directory / ("memory.swap.max" if v2 else "memory.memsw.limit_in_bytes")
            if swap.exists():
                swap.write_text("0" if v2 else str(int(value * MIB)))
        elif key == "cpu":
            quota = max(1000, int(value * CPU_PERIOD_US))
            if v2:
                (directory / "cpu.max").write_text(f"{quota} {CPU_PERIOD_US}")
            else:
                (directory / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_US))
                (directory / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (directory / "pids.max").write_text(str(int(value)))


def _hierarchies(proc: Path) -> Iterator[Hierarchy]:
    """Where this process is, in the hierarchies that have a controller we use; version 2 first."""
    own = [line.split(":", 2) for line in _read(proc / "cgroup").splitlines()]
    mounts = list(_mounts(proc))
    for _, controllers, path in own:
        if controllers:
            continue
        for kind, _, root, point in mounts:
            if kind == "cgroup2" and (directory := _below(point, root, path)):
                # The own group usually holds the daemon, and may then not have groups with controllers
                # beside it; a delegated parent without processes may.
                for parent in (directory, *_delegated(directory.parent)):
                    known = _read(parent / "cgroup.controllers").split()
                    if found := {key: parent for key in CONTROLLERS if key in known}:
                        yield Hierarchy(2, found)
    parents: dict[str, Path] = {}
    for _, controllers, path in own:
        for key in set(controllers.split(",")) & set(CONTROLLERS):
            for kind, options, root, point in mounts:
                if kind == "cgroup" and key in options and (found := _below(point, root, path)):
                    parents[key] = found
    if parents:
        yield Hierarchy(1, parents)


def _mounts(proc: Path) -> Iterator[tuple[str, list[str], str, Path]]:
    """(file system, its options, root within it, mount point); proc_pid_mountinfo(5)."""
    for line in _read(proc / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, more = before.split(), after.split()
        if len(fields) > 4 and len(more) > 2 and more[0] in ("cgroup", "cgroup2"):
            yield more[0], more[2].split(","), fields[3], Path(fields[4])


def _below(point: Path, root: str, path: str) -> Path | None:
    """The directory of a group, where the mount shows it."""
    if root != "/":
        if path != root and not path.startswith(f"{root}/"):
            return None
        path = path[len(root) :]
    directory = point / path.lstrip("/")
    return directory if directory.is_dir() else None


def _delegated(parent: Path) -> list[Path]:
    """The parent, where its owner gave it to us (systemd marks that) and no process is in it."""
    try:
        given = os.getxattr(parent, "user.delegate") == b"1"
    except (OSError, AttributeError):
        return []
    return [parent] if given and not _read(parent / "cgroup.procs").strip() else []


def _switch_on(parent: Path, key: str) -> None:
    switches = parent / "cgroup.subtree_control"
    if key not in _read(switches).split():
        switches.write_text(f"+{key}")


def _rmdir(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
