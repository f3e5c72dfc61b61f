"""Sign-ins that `flakes auth login` keeps: one file a server, 0600, below the configuration's directory.

A file is read under the rules for every credential file: one's own, regular, no symlink, for nobody else's
eyes. It is used with the very server that it names.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

import msgspec

from flakes.session.layout import write_private
from flakes.wire.config import credential
from flakes.wire.errors import ApiError


class SignIn(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A token for a server, and whose it is."""

    server: str
    token: str
    user_id: str
    name: str
    email: str | None = None
    created_at: datetime
    expires_at: datetime

    @property
    def is_expired(self) -> bool:
        return datetime.now(UTC) >= self.expires_at


def path_of(config_dir: Path, server: str) -> Path:
    """Where the sign-in of a server is kept."""
    return config_dir / "credentials" / f"{quote(_origin(server), safe='')}.json"


def read(config_dir: Path, server: str) -> SignIn | None:
    """The stored sign-in for a server; a file that others may read is refused, not used."""
    path = path_of(config_dir, server)
    try:
        path.lstat()
    except OSError:
        return None
    try:
        found = msgspec.json.decode(credential(path), type=SignIn)
    except msgspec.MsgspecError as error:
        raise ApiError("config_invalid", f"{path}: {error}", "remove the file, and sign in again") from error
    return found if _origin(found.server) == _origin(server) else None


def write(config_dir: Path, sign_in: SignIn) -> Path:
    """Keep a sign-in, in the place of an older one."""
    path = path_of(config_dir, sign_in.server)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    write_private(path, msgspec.json.encode(sign_in).decode() + "\n")
    return path


def remove(config_dir: Path, server: str) -> bool:
    """Forget a sign-in; whether there was one."""
    try:
        path_of(config_dir, server).unlink()
    except FileNotFoundError:
        return False
    return True


def _origin(server: str) -> str:
    parts = urlsplit(server)
    return f"{parts.scheme}://{parts.netloc}".lower() + parts.path.rstrip("/")
