"""What an interrupted attempt leaves for the next one: the agent's own session, its work and its outputs.

While an attempt runs they are in its directory, and nothing else knows of them. An attempt that was lost, or
that failed in a way that may pass, has its directories moved here, under the task's id; the next attempt of
that task on this machine moves them into its own. So there is one copy, which nobody else can be using, and
an attempt that ends for good leaves nothing. What no attempt has come for in a week goes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Final

import structlog

from flakes.agents.base import SessionRef
from flakes.sandbox.directory import TaskDirectory
from flakes.wire.codec import BodyError, Frozen, decode, encode

log = structlog.get_logger(__name__)

KEPT_S: Final = 7 * 24 * 3600
RECORD: Final = "session.json"


def _carried(directory: TaskDirectory) -> dict[str, Path]:
    """What goes over to the next attempt: the work, and with it what tells later what was changed in it."""
    return {
        "session": directory.session, "work": directory.work, "outputs": directory.outputs,
        "store": directory.store,
    }  # fmt: skip


class Record(Frozen, frozen=True, kw_only=True):
    """Beside the directories: whose they are. `kind` and `value` are the agent's own name of its session."""

    task_id: str
    adapter: str
    attempt: int
    assignment_id: str = ""
    kind: str = ""
    value: str = ""

    @property
    def session(self) -> SessionRef | None:
        """The session, once the agent has named it."""
        return SessionRef(self.kind, self.value) if self.value else None


class Sessions:
    """The kept directories of one machine. Every method blocks, shortly."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def note(self, directory: TaskDirectory, record: Record) -> None:
        """Write down whose session this is, for whoever finds the directory after a crash. The agent may be
        at work in there already: what it put under that name is replaced, never followed."""
        new = directory.root / f".{RECORD}.{secrets.token_hex(8)}"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(encode(record))
        new.replace(directory.root / RECORD)

    def take(
        self, task_id: str, adapter: str, directory: TaskDirectory, newest: str | None = None
    ) -> Record | None:
        """Move what an earlier attempt left into a fresh directory; its record, or None when there is nothing.
        When another attempt, `newest`, stored files since, elsewhere, those in the directory stay."""
        kept = self._place(task_id)
        record = _read(kept / RECORD)
        if record is None or record.adapter != adapter or record.task_id != task_id:
            shutil.rmtree(kept, ignore_errors=True)
            return None
        stale = newest is not None and record.assignment_id not in ("", newest)
        for name, target in _carried(directory).items():
            source = kept / name
            if source.is_dir() and not (stale and name in ("work", "store")):
                shutil.rmtree(target, ignore_errors=True)
                shutil.move(source, target)
        shutil.rmtree(kept, ignore_errors=True)
        return record

    def keep(self, directory: TaskDirectory, task_id: str) -> None:
        """Move what an interrupted attempt of the task left behind here, if it was an agent's with a session.
        The record lay in the hands of the task, so it is not believed whose it is."""
        record = _read(directory.root / RECORD)
        if record is None or record.session is None or record.task_id != task_id:
            return
        kept = self._place(record.task_id)
        shutil.rmtree(kept, ignore_errors=True)
        try:
            kept.mkdir(parents=True, mode=0o700)
            for name, source in _carried(directory).items():
                if source.is_dir() and not source.is_symlink():
                    shutil.move(source, kept / name)
            shutil.move(directory.root / RECORD, kept / RECORD)  # last: without it nothing is taken
        except OSError as error:
            log.warning("session not kept", task_id=record.task_id, reason=str(error))
            shutil.rmtree(kept, ignore_errors=True)

    def prune(self) -> None:
        """Remove what nobody has come for."""
        with contextlib.suppress(OSError):
            for kept in self._root.iterdir():
                if kept.stat().st_mtime < time.time() - KEPT_S:
                    shutil.rmtree(kept, ignore_errors=True)

    def _place(self, task_id: str) -> Path:
        return self._root / (
            task_id if task_id.replace("_", "").isalnum() else task_id.encode().hex()
        )


def _read(path: Path) -> Record | None:
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return decode(path.read_bytes(), Record)
    except (OSError, BodyError):
        return None
