"""The providers as the conformance suite sees them: how to make an instance of each, and how to look at it.

`process`, `bubblewrap` and `matchlock` run the stand-in daemon as real processes; `fake` pretends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

import flakes
from flakes import processes
from flakes.host.instances import to_toml
from flakes.host.providers.base import Handle, LaunchSpec, Provider
from flakes.host.providers.bubblewrap import BubblewrapProvider
from flakes.host.providers.matchlock import MatchlockProvider
from flakes.host.providers.process import ProcessProvider
from flakes.sandbox.bubblewrap import program
from flakes.wire.config import PoolConfig, SandboxConfig
from host.fake_provider import FakeProvider, Machine
from host.machine import write_private
from sandbox.bwrap import WHY_NOT

HERE: Final = Path(__file__).parent
STAND_IN: Final = HERE / "stand_in.py"
TOKEN: Final = "token-nobody-may-see-7733"
NAMES: Final = ("process", "bubblewrap", "matchlock", "fake")


class Case:
    """One provider in one test. `provider()` is a new object each time, as after a restart of the host."""

    def __init__(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = name
        self.root = tmp_path
        self.pool = PoolConfig(
            pool_key="here",
            adapter="command",
            provider=name,
            resource_bounds={"memoryMb": 64, "cpus": 1},
        )
        self.daemon_argv: tuple[str, ...] = (sys.executable, str(STAND_IN))
        if name in ("bubblewrap", "matchlock") and WHY_NOT:
            pytest.skip(f"no namespaces here: {WHY_NOT}")
        monkeypatch.setenv("FLAKES_TOKEN", "the-hosts-own")
        self.machine = Machine()
        self.script: list[str] = []
        if name == "matchlock":
            self._install_matchlock(monkeypatch)

    def provider(self) -> Provider:
        if self.name == "fake":
            return FakeProvider(self.machine, self.script)
        made = {
            "process": ProcessProvider,
            "bubblewrap": BubblewrapProvider,
            "matchlock": MatchlockProvider,
        }
        return made[self.name]()

    def instance(self, number: int = 1, mode: str = "stay") -> LaunchSpec:
        """Everything that a launch needs, written as the host writes it."""
        directory = self.root / f"instance_{os.getpid()}_{number}"
        (directory / "state").mkdir(parents=True)
        write_private(directory / "sandbox.credential", TOKEN)
        sandbox = SandboxConfig(
            control_plane_url="http://127.0.0.1:9",
            sandbox_id=f"sandbox_{os.getpid()}_{number}",
            credential_file=str(directory / "sandbox.credential"),
            state_dir=str(directory / "state"),
            env={"MODE": mode},
        )
        argv, sandbox = self.provider().arrange(self.pool, sandbox, self.daemon_argv, directory, [])
        (directory / "sandbox.toml").write_text(to_toml(msgspec.to_builtins(sandbox)))
        return LaunchSpec(
            directory.name, sandbox.sandbox_id, argv, directory, directory / "daemon.log"
        )

    def is_up(self, spec: LaunchSpec) -> bool:
        if self.name == "fake":
            return any(
                known.instance_id == spec.instance_id and self.machine.daemons[name] is None
                for name, known in self.machine.specs.items()
            )
        return (spec.directory / "state" / "up").exists()

    async def retire(self, handle: Handle) -> None:
        """Make a daemon of mode `retire` end by itself."""
        if self.name == "fake":
            await self.machine.end(handle.start, 0)
        (handle.spec.directory / "retire").touch()

    async def die(self, handle: Handle) -> None:
        """Kill the daemon from outside, as the system does when memory is short."""
        if self.name == "fake":
            await self.machine.end(handle.start, -signal.SIGKILL)
        for pid in self.alive(handle.spec):
            with contextlib.suppress(ProcessLookupError):  # one may end with the one before it
                os.kill(pid, signal.SIGKILL)

    def alive(self, spec: LaunchSpec) -> list[int]:
        """Processes of the instance, by what they were told on their command line or work with."""
        marks = [str(spec.directory).encode(), f"instance {spec.instance_id}".encode()]
        found = []
        for pid in processes.table():
            words = b" ".join(processes.arguments(pid))
            held = f"FLAKES_SANDBOX_ID={spec.sandbox_id}".encode() in processes.environment(pid)
            if held or any(mark in words for mark in marks) or self._in_machine(pid, spec):
                found.append(pid)
        return found

    def fail_next(self) -> str:
        """Make launches of instances made from now on fail; a part of the reason."""
        if self.name == "matchlock":
            self._behave("fail")
            return "no such image"
        if self.name == "fake":
            self.script.append("fail")
            return "scripted to fail"
        self.daemon_argv = ("/no/such/daemon",)
        return "/no/such/daemon"

    def left(self) -> list[str]:
        """What is left of anything, by every trace that an instance leaves."""
        rest = [str(pid) for path in self.root.glob("instance_*") for pid in self._alive_below(path)]
        if self.name == "matchlock":
            rest += [path.name for path in self.machines()]
        rest += [name for name, code in self.machine.daemons.items() if code is None]
        return rest

    # ---- matchlock

    def machines(self) -> list[Path]:
        return sorted((self.root / ".matchlock-stand-in").glob("vm-*"))

    def calls(self) -> list[dict[str, Any]]:
        """What the stand-in was called with: argv and env."""
        lines = (self.root / ".matchlock-stand-in" / "calls").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def behave(self, word: str) -> None:
        self._behave(word)

    def _behave(self, word: str) -> None:
        (self.root / ".matchlock-stand-in").mkdir(exist_ok=True)
        with (self.root / ".matchlock-stand-in" / "behave").open("a") as file:
            file.write(f"{word}\n")

    def _install_matchlock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(self.root))
        executable = self.root / "matchlock"
        stand_in = HERE / "matchlock_stand_in.py"
        executable.write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in} "$@"\n')
        executable.chmod(0o755)
        image = self.root / "image"
        image.mkdir()
        shown = [*program(), HERE.parent]
        needs = [str(path) for path in shown if Path("/usr") not in path.parents and path != Path("/usr")]
        (image / "needs").write_text("\n".join(needs))
        paths = f"{Path(flakes.__file__).parents[1]}:{HERE.parent}"
        (image / "flakes").write_text(
            f"#!/bin/sh\nshift\nPYTHONPATH={paths} exec {sys.executable} {STAND_IN} \"$@\"\n"
        )
        (image / "flakes").chmod(0o755)
        self.pool = msgspec.structs.replace(
            self.pool,
            matchlock_image=str(image),
            executable_paths={"matchlock": str(executable), "flakes": "/image/flakes"},
        )

    def _in_machine(self, pid: int, spec: LaunchSpec) -> bool:
        """Whether a process lives in the instance's machine: there its directory has another name."""
        if self.name != "matchlock" or b"/workspace/flakes/sandbox.toml" not in processes.arguments(pid):
            return False
        try:
            mounts = Path(f"/proc/{pid}/mountinfo").read_text()
        except OSError:
            return False
        return f"{spec.directory} /workspace/flakes" in mounts

    def _alive_below(self, directory: Path) -> list[int]:
        number = directory.name.rpartition("_")[2]
        spec = LaunchSpec(directory.name, f"sandbox_{os.getpid()}_{number}", (), directory, directory)
        return self.alive(spec)


def descriptor(spec: LaunchSpec) -> dict[str, Any]:
    """What the real daemon would say of itself with this configuration."""
    argv = [sys.executable, "-m", "flakes.sandbox", "--dry-run", "--config", str(spec.directory / "sandbox.toml")]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)
