"""The account that PostgreSQL's programs run as.

PostgreSQL refuses to run as root, so a root process hands its programs to the account `nobody`. An ordinary user runs
them as itself, and nothing here changes anything. This module knows how a child process is started under such an account and what that account can reach.

It refuses to know databases, and it never changes the machine: no account is created, and no directory that is not
ours is opened up. What cannot be reached is reported, with the directory that stands in the way.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flakes.store.embedded_error import EmbeddedPostgresError


@dataclass(frozen=True)
class Account:
    """Who runs PostgreSQL. `switch` is true where this process is root and has to change to (uid, gid)."""

    uid: int
    gid: int
    name: str
    switch: bool

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str], stdin: str = "", timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a short program to its end and return its exit status and output (both streams in `stdout`).

        Raises OSError where it cannot be executed and subprocess.TimeoutExpired (after killing it) where it hangs.
        """
        return subprocess.run(
            list(argv),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            env=dict(env),
            check=False,
            **self._place(),
        )

    def launch(
        self, argv: Sequence[str], *, env: Mapping[str, str], log: IO[bytes]
    ) -> subprocess.Popen[Any]:
        """Start a program that outlives this process: a session of its own, output appended to `log`."""
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
            **self._place(),
        )

    def give(self, path: Path, mode: int) -> None:
        """Make a path of our own belong to the account, with this mode. Links are refused, not followed."""
        if path.is_symlink():
            raise EmbeddedPostgresError(
                "data_dir_unwritable",
                f"{path} is a symbolic link.",
                "Point the data directory itself at the real place instead of linking parts of it.",
            )
        if self.switch:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)
        path.chmod(mode)

    def reaches(self, directory: Path) -> bool:
        """Can the account enter this existing directory? Asked of the kernel, so ACLs and mounts count too."""
        if not self.switch:
            return os.access(directory, os.X_OK)
        done = self.run(
            ["/bin/sh", "-c", 'cd "$1"', "sh", str(directory)], env=CLEAN_ENV, timeout_s=10
        )
        return done.returncode == 0

    def obstacle(self, directory: Path) -> Path:
        """The outermost existing directory on the way to `directory` that the account cannot enter."""
        for step in [*reversed(directory.parents), directory]:
            if not self.reaches(step):
                return step
        return directory

    def _place(self) -> dict[str, Any]:
        # cwd is "/" because the caller's own directory may be closed to the account. The umask keeps every file
        # that PostgreSQL makes private, whatever the caller's is.
        place: dict[str, Any] = {"cwd": "/", "umask": 0o077}
        if self.switch:
            place |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return place


# PostgreSQL's programs read PG* variables, and messages we match on must not be translated, so nothing is inherited.
CLEAN_ENV: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": "/"}


def service_account() -> Account:
    """The account for PostgreSQL's programs: this user, or `nobody` where this user is root.

    Raises `no_unprivileged_account` where this process is root and the system has no user `nobody`.
    """
    uid = os.geteuid()
    if uid != 0:
        return Account(uid=uid, gid=os.getegid(), name=name_of(uid), switch=False)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedPostgresError(
            "no_unprivileged_account",
            "PostgreSQL cannot run as root, and this system has no user 'nobody' to run it as.",
            "Run Flakes as an ordinary user.",
        ) from None
    return Account(uid=nobody.pw_uid, gid=nobody.pw_gid, name="nobody", switch=True)


def name_of(uid: int) -> str:
    """A user's name for people to read."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
