"""Which server a command talks to, and as whom.

The server: `--server`, else `FLAKES_SERVER`, else the current profile of the configuration file, else the
local session. The token: `--token`, else `FLAKES_TOKEN`, else the credential that belongs to that server
(the profile's file, what `flakes auth login` keeps, or the local session's). A token is never sent to a
server that it was not made for: a credential file is used with its own server only.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flakes.cli import sign_ins
from flakes.session import record
from flakes.session.layout import current_name, layout
from flakes.wire.errors import ApiError

if TYPE_CHECKING:
    from datetime import datetime

    from flakes.client.api import Client
    from flakes.client.transport import Address

Source = Literal["flag", "environment", "profile", "session"]


@dataclass(frozen=True, slots=True)
class Target:
    """A server and a token. `source` says who chose the server, `token_source` where the token is from."""

    server: str
    token: str | None
    source: Source
    token_source: str
    expires_at: datetime | None = None
    """When a stored sign-in ends."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the command line says; None where it says nothing."""

    server: str | None = None
    token: str | None = None


def choice(server: str | None, token: str | None) -> Choice:
    """Options of the command, else those given before it."""
    outer: dict[str, Any] = click.get_current_context().find_root().obj or {}
    return Choice(server or outer.get("server"), token or outer.get("token"))


def is_configured(chosen: Choice) -> bool:
    """Whether somebody named a server; if not, commands mean the local session."""
    return bool(chosen.server or os.environ.get("FLAKES_SERVER") or _profile())


def resolve(chosen: Choice) -> Target:
    """The server to use. `session_not_running` when none is named and the local session is down."""
    profile = _profile()
    named = chosen.server or os.environ.get("FLAKES_SERVER")
    source: Source
    if named:
        server, source = named.rstrip("/"), "flag" if chosen.server else "environment"
    elif profile is not None:
        server, source = profile.server, "profile"
    else:
        found = session_address()
        if found is None:
            name = current_name()
            raise ApiError(
                "session_not_running",
                f"no server is named, and the local session {name!r} does not run",
                "start it with `flakes up`, or name a server with --server or FLAKES_SERVER",
            )
        server, source = found.server, "session"
    token, token_source, expires_at = _token(chosen, server, profile)
    return Target(server, token, source, token_source, expires_at)


def is_default(server: str) -> bool:
    """Whether commands that name no server mean this one."""
    profile = _profile()
    named = os.environ.get("FLAKES_SERVER") or (profile.server if profile else "")
    return named.rstrip("/") == server


def not_signed_in(server: str) -> ApiError:
    """The refusal of a command that has no token for its server."""
    return ApiError("unauthorized", f"there is no token for {server}", f"sign in with `flakes auth login --server {server}`, or give a token with --token or FLAKES_TOKEN")


def client(chosen: Choice) -> Client:
    """A client for the chosen server; not signed in is refused here, before anything is sent."""
    from flakes.client.api import Client

    target = resolve(chosen)
    if target.token is None:
        raise not_signed_in(target.server)
    locate = None
    if target.source == "session" and target.token_source == "local session":  # noqa: S105
        locate = session_address
    return Client(target.server, target.token, locate=locate)


def session_address() -> Address | None:
    """Where the local session answers now, with its owner's token; None when it does not run."""
    from flakes.client.transport import Address

    found = record.running(layout())
    if found is None:
        return None
    return Address(found.server, _read_token(Path(found.credential_file)))


@dataclass(frozen=True, slots=True)
class _Profile:
    server: str
    credential_file: Path | None


def _token(
    chosen: Choice, server: str, profile: _Profile | None
) -> tuple[str | None, str, datetime | None]:
    if chosen.token:
        return chosen.token, "--token", None
    if os.environ.get("FLAKES_TOKEN"):
        return os.environ["FLAKES_TOKEN"], "FLAKES_TOKEN", None
    if profile is not None and profile.server == server and profile.credential_file is not None:
        return _read_token(profile.credential_file), str(profile.credential_file), None
    stored = sign_ins.read(config_dir(), server)
    if stored is not None:
        return stored.token, "sign-in", stored.expires_at
    session = session_address()
    if session is not None and session.server == server:
        return session.token, "local session", None
    return None, "none", None


def _read_token(path: Path) -> str:
    from flakes.wire.config import credential

    return credential(path)


def config_dir() -> Path:
    """Where the CLI keeps its configuration and its sign-ins."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return ((Path(base) if base else Path.home() / ".config") / "flakes").absolute()


def config_path() -> Path:
    """The CLI's own configuration file; it need not exist."""
    return config_dir() / "config.toml"


def _profile() -> _Profile | None:
    path = config_path()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ApiError(
            "config_invalid", f"{path}: {error}", "mend the file, or move it away"
        ) from error
    current = values.get("current")
    if current is None:
        return None
    profiles = values.get("profiles")
    entry = profiles.get(current) if isinstance(profiles, dict) else None
    if not isinstance(entry, dict) or not isinstance(entry.get("server"), str):
        raise ApiError(
            "config_invalid",
            f"{path}: the current profile {current!r} has no `server`",
            f'write `[profiles.{current}]` with `server = "https://..."` below it',
        )
    file = entry.get("credentialFile")
    return _Profile(
        entry["server"].rstrip("/"),
        Path(file).expanduser() if isinstance(file, str) else None,
    )
