"""Where a local session keeps its files, and who may read them.

    <data>/sessions/<name>/
        session.json  server.toml  host.toml  host.credential  owner.credential
        postgresql/   blobs/   host/   logs/{supervisor,server,host}.log

For an ordinary user everything is 0700. As root the embedded PostgreSQL runs as an unprivileged user
that must reach its own directory, so the way down to `postgresql/` is 0711: passable, not readable.
Secrets are 0600 files either way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flakes.core import keys
from flakes.wire.errors import ApiError

DEFAULT_NAME = "default"
SECRET_MODE = 0o600
LOG_NAMES = ("supervisor", "server", "host")


def data_dir(env: Mapping[str, str] | None = None) -> Path:
    """The data directory of this user: `FLAKES_DATA_DIR`, else the platform's usual place."""
    env = os.environ if env is None else env
    if env.get("FLAKES_DATA_DIR"):
        return Path(env["FLAKES_DATA_DIR"]).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/flakes")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "flakes"
    if env.get("XDG_DATA_HOME"):
        return Path(env["XDG_DATA_HOME"]) / "flakes"
    return Path.home() / ".local" / "share" / "flakes"


def current_name(env: Mapping[str, str] | None = None) -> str:
    """The session that commands mean when they name none: `FLAKES_SESSION`, else `default`."""
    env = os.environ if env is None else env
    return env.get("FLAKES_SESSION") or DEFAULT_NAME


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one session; making this object touches nothing."""

    data_dir: Path
    name: str

    @property
    def root(self) -> Path:
        return self.data_dir / "sessions" / self.name

    @property
    def record(self) -> Path:
        return self.root / "session.json"

    @property
    def server_config(self) -> Path:
        return self.root / "server.toml"

    @property
    def host_config(self) -> Path:
        return self.root / "host.toml"

    @property
    def host_credential(self) -> Path:
        return self.root / "host.credential"

    @property
    def owner_credential(self) -> Path:
        return self.root / "owner.credential"

    @property
    def postgresql(self) -> Path:
        return self.root / "postgresql"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def host_state(self) -> Path:
        return self.root / "host"

    @property
    def ready_file(self) -> Path:
        """Where the server says that it listens, and at which address."""
        return self.root / "server.ready"

    @property
    def command_lock(self) -> Path:
        """Held by `up` and `down` while they work, so that two of them take turns."""
        return self.root / "command.lock"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor for as long as it lives: one a session."""
        return self.root / "supervisor.lock"

    def log(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"

    def make(self) -> None:
        """Make the directories, with the modes described above. Changes no mode that is already tighter
        than it needs to be for the work."""
        mode = 0o711 if os.geteuid() == 0 else 0o700
        missing: list[Path] = []
        path = self.root
        while not path.exists():
            missing.append(path)
            path = path.parent
        try:
            for directory in reversed(missing):
                directory.mkdir(mode=mode, exist_ok=True)
                directory.chmod(mode)  # whatever the umask says
            for private in (self.blobs, self.host_state, self.root / "logs"):
                private.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ApiError(
                "session_failed",
                f"the session's directory cannot be made: {error}",
                "mend its permissions, or choose another place with FLAKES_DATA_DIR",
            ) from error


def layout(name: str | None = None, env: Mapping[str, str] | None = None) -> Layout:
    """The layout of a session of this user; a name that is not a key is refused."""
    chosen = name or current_name(env)
    if not keys.is_key(chosen):
        raise ApiError(
            "usage",
            f"{chosen!r} is not a session name",
            f"use lower-case letters, digits and hyphens, such as {keys.key_from(chosen, 'default')!r}",
        )
    return Layout(data_dir(env), chosen)


def write_private(path: Path, text: str) -> None:
    """Replace a file as a whole, readable by its owner alone; a crash leaves the old or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, SECRET_MODE)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
