"""Finding an agent on this machine: its command, its version without starting it, and who is signed in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from flakes.agents.base import AgentError, Check, Installation, Job


def command_of(name: str, job: Job) -> list[str]:
    """The words that start the agent; raises `agent_missing`."""
    if job.installation.command:
        return list(job.installation.command)
    found = shutil.which(name, path=job.env.get("PATH"))
    if found is None:
        raise AgentError(
            "agent_missing", f"`{name}` is not on the PATH of this sandbox",
            "install it on the machine (`flakes doctor` looks for it), or set `agent.command` in the pool",
        )  # fmt: skip
    return [found]


def version_of(command: list[str]) -> str:
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


def untested(name: str, version: str, tested: tuple[str, str]) -> str | None:
    """A warning for a version outside the tested range: from the first, and below the second."""
    if not version or _numbers(tested[0]) <= _numbers(version) < _numbers(tested[1]):
        return None
    return f"{name} {version} is outside the range that was tested ({tested[0]} up to, not including, {tested[1]})"


def version_near(
    name: str, command: list[str], env: Mapping[str, str], tested: tuple[str, str]
) -> list[str]:
    """Zero or one warning about the version of what is about to be started."""
    warning = untested(name, version_of(command), tested)
    return [warning] if warning else []


def looked_at(
    name: str, installation: Installation, tested: tuple[str, str], credential: Path, *keys: str
) -> Check:
    """What there is to say of an agent without starting it."""
    import os

    command = list(installation.command) or [shutil.which(name) or ""]
    if not command[0] or (Path(command[0]).is_absolute() and not Path(command[0]).exists()):
        return Check(False, message=f"`{name}` is not on the PATH", fix=f"install {name}")
    version = version_of(command)
    signed_in = credential.is_file() or any(os.environ.get(key) for key in keys) or None
    warning = untested(name, version, tested)
    return Check(True, version, warning or "", "" if signed_in else f"sign in: start `{name}` once", signed_in)


def _numbers(version: str) -> tuple[int, ...]:
    parts: list[int] = []
    for part in version.split(".")[:3]:
        digits = "".join(c for c in part if c.isdigit())
        parts.append(int(digits or 0))
    return tuple(parts)
