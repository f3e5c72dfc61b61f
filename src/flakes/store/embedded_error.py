"""The one error of the embedded PostgreSQL, and how PostgreSQL's own words become part of it.

Every refusal has a stable code, a message with what PostgreSQL said, and a fix. The codes are listed in
docs/design/002-embedded-postgresql.md.
"""

from __future__ import annotations

import errno

_TAIL_LINES = 20
_FULL_SIGNS = ("No space left on device", "Disk quota exceeded")


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot do what was asked.

    `code` is stable and snake_case, `message` says what happened (with the tail of PostgreSQL's log where there is
    one), `fix` says what a person can do about it.
    """

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(f"{message}\n{fix}")
        self.code = code
        self.message = message
        self.fix = fix


def tail(output: str) -> str:
    """The last lines of a program's output, indented, ready to follow a message."""
    lines = [line for line in output.strip().splitlines() if line.strip()]
    return "".join(f"\n  {line}" for line in lines[-_TAIL_LINES:])


def failed(code: str, what: str, output: str, fix: str) -> EmbeddedPostgresError:
    """The error for a program that failed with this output; a full disk is recognised whatever the program was."""
    if any(sign in output for sign in _FULL_SIGNS):
        return disk_full(what + tail(output))
    return EmbeddedPostgresError(code, what + tail(output), fix)


def from_os(failure: OSError, what: str) -> EmbeddedPostgresError:
    """The error for a file operation of ours that the system refused."""
    message = f"{what}: {failure.strerror or failure}."
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(message)
    return EmbeddedPostgresError(
        "data_dir_unwritable",
        message,
        "Make the data directory writable for the user that runs Flakes, or choose another one.",
    )


def disk_full(message: str) -> EmbeddedPostgresError:
    return EmbeddedPostgresError(
        "disk_full",
        message,
        "Free some space on the file system of the data directory and start again; nothing that was committed is lost.",
    )
