"""An agent on this machine: its command, its version, and whether somebody has signed in.

The version is that of the package which the command belongs to, or else what the program says of itself; a
program is asked once, as long as it does not change. Whether somebody has signed in is read from the place
where the agent keeps its credential: no provider is asked, and no secret is looked at.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flakes.agents.base import AgentError, AgentEvent, Check, Host, Installation, Job

SAYS_S: Final = 20.0
"""How long a program may take to say its version."""
UNTESTED: Final = "agent_untested"
_VERSION: Final = re.compile(rb"\d+(?:\.\d+)+")
_SAID: Final[dict[tuple[str, ...], str]] = {}


@dataclass(frozen=True, slots=True)
class About:
    """What is fixed about an agent. `tested`: versions from the first, below the second. `credentials`
    are relative to its configuration directory, `keys` the variables that serve instead."""

    name: str
    tested: tuple[str, str] | None
    install: str
    sign_in: str
    credentials: tuple[str, ...]
    keys: tuple[str, ...] = ()


def command_of(name: str, job: Job) -> list[str]:
    """The words that start the agent; raises `agent_missing`."""
    if job.installation.command:
        return list(job.installation.command)
    found = shutil.which(name, path=job.env.get("PATH"))
    if found is None:
        raise AgentError(
            "agent_missing", f"`{name}` is not on the PATH of this sandbox",
            f"install it on the machine and look with `flakes doctor --adapter {name}`,"
            " or set `agent.command` in the pool",
        )  # fmt: skip
    return [found]


def version_of(command: Sequence[str]) -> str:
    """The version in the package that the command belongs to; empty when it is not in one."""
    for word in reversed(command):
        path = Path(word)
        if not path.is_absolute() or not path.exists():
            continue
        for parent in list(path.resolve().parents)[:6]:
            try:
                found = json.loads((parent / "package.json").read_text())
            except (OSError, ValueError):
                continue
            if isinstance(found, dict) and found.get("version"):
                return str(found["version"])
    return ""


def untested(name: str, version: str, tested: tuple[str, str] | None) -> str | None:
    """A warning for a version outside the tested range."""
    if not version or tested is None or _numbers(tested[0]) <= _numbers(version) < _numbers(tested[1]):
        return None
    return f"{name} {version} is outside the range that was tested ({tested[0]} up to, not including, {tested[1]})"


async def warn_of_version(about: About, command: Sequence[str], env: Mapping[str, str], host: Host) -> None:
    """Tell the user when what is about to be started was not tested."""
    version = await asyncio.to_thread(version_of, command) or await _said(command, env, host)
    if warning := untested(about.name, version, about.tested):
        await host.emit(AgentEvent("notice", {"level": "warning", "text": warning, "code": UNTESTED}))


def looked_at(about: About, installation: Installation, config_dir: Path) -> Check:
    """What there is to say of an agent for diagnosis. Blocking: it may ask the program for its version."""
    env = installation.env
    words = list(installation.command) or [about.name]
    found = shutil.which(words[0], path=env.get("PATH"))
    gone = [word for word in words[1:] if Path(word).is_absolute() and not Path(word).exists()]
    if found is None or gone:
        missing = words[0] if found is None else gone[0]
        where = "is not there" if Path(missing).is_absolute() else "is not on the PATH"
        return Check(False, message=f"`{missing}` {where}", fix=about.install)
    command = [found, *words[1:]]
    version = version_of(command) or _asked(command, env)
    if not version:
        return Check(False, message=f"`{found} --version` says no version", fix=about.install)
    signed_in = any(_filled(config_dir / name) for name in about.credentials)
    signed_in = signed_in or any(env.get(key) for key in about.keys)
    return Check(
        True, version, untested(about.name, version, about.tested) or "",
        "" if signed_in else about.sign_in, signed_in, command=tuple(command),
    )  # fmt: skip


def _filled(path: Path) -> bool:
    """Whether there is something in the file: an agent that was signed out of may leave an empty object."""
    try:
        return path.stat().st_size > len("{}\n")
    except OSError:
        return False


async def _said(command: Sequence[str], env: Mapping[str, str], host: Host) -> str:
    key = _key(command)
    if key not in _SAID:
        process = await host.spawn([*command, "--version"], env=env)
        said = b""
        try:
            async with asyncio.timeout(SAYS_S):
                while chunk := await process.stdout.read():
                    said = (said + chunk)[:4096]
        except TimeoutError:
            pass
        await process.terminate(0)
        _SAID[key] = _version_in(said)
    return _SAID[key]


def _asked(command: Sequence[str], env: Mapping[str, str]) -> str:
    try:
        answer = subprocess.run(
            [*command, "--version"], env=dict(env), capture_output=True, check=False, timeout=SAYS_S,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return _version_in(answer.stdout) if answer.returncode == 0 else ""


def _version_in(said: bytes) -> str:
    found = _VERSION.search(said)
    return found[0].decode() if found else ""


def _key(command: Sequence[str]) -> tuple[str, ...]:
    """The command, and when its files changed last."""
    changed = [str(path.stat().st_mtime_ns) for path in map(Path, command) if path.is_absolute() and path.exists()]
    return (*command, *changed)


def _numbers(version: str) -> tuple[int, ...]:
    parts: list[int] = []
    for part in version.split(".")[:3]:
        digits = "".join(c for c in part if c.isdigit())
        parts.append(int(digits or 0))
    return tuple(parts)
