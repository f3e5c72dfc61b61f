"""`session.json`: what a session runs and where it answers, for everybody who wants to talk to it.

Written by the supervisor alone, as a whole. It proves nothing by itself: whoever reads it checks the
supervisor's identity (pid and start time), so a file left behind by a crash is recognised as stale.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from flakes.session import processes
from flakes.session.layout import Layout, write_private
from flakes.session.processes import Identity


class Process(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A process as the record names it."""

    pid: int
    start_time: str

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_time)


class Record(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """`pid` and `startTime` are the supervisor's; `server` is where the API answers."""

    name: str
    status: Literal["starting", "ready"]
    pid: int
    start_time: str
    server: str
    console_url: str
    credential_file: str
    data_dir: str
    version: str
    processes: dict[str, Process] = {}

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_time)


def read(layout: Layout) -> Record | None:
    """What the file says, true or not; None when there is none or it is not ours to read."""
    try:
        return msgspec.json.decode(layout.record.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def running(layout: Layout) -> Record | None:
    """The record of a session whose supervisor lives and is ready, else None."""
    found = read(layout)
    if found is None or found.status != "ready" or not processes.alive(found.identity):
        return None
    return found


def write(layout: Layout, record: Record) -> None:
    write_private(layout.record, msgspec.json.format(msgspec.json.encode(record)).decode() + "\n")


def process(identity: Identity) -> Process:
    return Process(pid=identity.pid, start_time=identity.start)
