"""The files of a host: written when they are not there, and a credential replaced as a whole."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from flakes.wire.errors import ApiError

MODE = 0o600


@dataclass(frozen=True, slots=True)
class Draft:
    """Where a new host's files will be. All paths are absolute."""

    config: Path
    credential: Path
    state: Path

    @classmethod
    def at(cls, config: Path, credential: Path | None, state: Path | None) -> Draft:
        """Beside the config where nothing else is said: `host.toml`, `host.credential`, `host.state`."""
        config = config.absolute()
        credential = (credential or config.with_suffix(".credential")).absolute()
        return cls(config, credential, (state or credential.with_suffix(".state")).absolute())

    def check_absent(self) -> None:
        """Refuse to write over anything, before anything is created anywhere."""
        if self.config == self.credential:
            raise ApiError("usage", "config and credential cannot be one file", "name two files")
        for path in (self.config, self.credential):
            if os.path.lexists(path):
                raise ApiError(
                    "usage", f"{path} exists already",
                    "name another file, or move it away; `flakes host rotate` replaces a credential",
                )  # fmt: skip
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise _unwritable(path.parent, error) from error
            if not os.access(path.parent, os.W_OK | os.X_OK):
                raise ApiError("usage", f"{path.parent} cannot be written to", "name another directory")

    def write(self, server: str, host_id: str, credential: str) -> None:
        """Both files or none. The credential first: a config without one would look complete."""
        _create(self.credential, credential + "\n")
        try:
            _create(self.config, self._toml(server, host_id))
        except ApiError:
            self.credential.unlink(missing_ok=True)
            raise

    def _toml(self, server: str, host_id: str) -> str:
        return f"""\
# This machine as a host. `flakes config schema host` shows every key.
controlPlaneUrl = {_quoted(server)}
hostId = {_quoted(host_id)}
credentialFile = {_quoted(str(self.credential))}
stateDir = {_quoted(str(self.state))}

# At least one pool is needed before `flakes host run`.
# [[pools]]
# poolKey = "local-command"
# provider = "process"              # no isolation: tasks run as you
# adapter = "command"
# maxInstances = 1
# maxConcurrency = 4
# advertisedCapabilities = ["linux"]
"""


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Callable[[str], None]]:
    """A function that replaces a credential file as a whole. That it can is tried before the block begins;
    a block that fails leaves the file as it was."""
    if not path.is_absolute():
        raise ApiError("config_invalid", "credentialFile must be an absolute path", "write the full path")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ApiError(
            "config_invalid", f"{path}: the credential file must be a regular file, not a symlink",
            "put the file itself there",
        )  # fmt: skip
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    # Room for any credential is taken now, so that a full disk is noticed while the old one still works.
    _create(draft, " " * 512)

    def write(credential: str) -> None:
        with draft.open("w", encoding="ascii") as file:
            file.write(credential + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

    try:
        yield write
    finally:
        draft.unlink(missing_ok=True)


def _create(path: Path, text: str) -> None:
    """A new private file; one that is there is never opened."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, MODE), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), MODE)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise ApiError("usage", f"{path} exists already", "name another file, or move it away") from error
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ApiError:
    return ApiError("usage", f"{path} cannot be written: {error.strerror}", "name another place")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
