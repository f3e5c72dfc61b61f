"""While a task runs: what it has changed in its files is reported, and with whom it gets into each other's way is said.

Only paths by name leave here, and nothing is read but what git needs to know that. A look costs time in proportion to
the files, so there is one only after something has changed, and never more than a small part of the time. What
goes wrong here is nobody's trouble: it is a warning that does not come.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import structlog

from flakes.core.limits import WORKSPACE_CHANGES_MAX
from flakes.sandbox.tools.server import Asks
from flakes.sandbox.watching import Watch
from flakes.wire.codec import BodyError, decode, encode
from flakes.wire.overlaps import ChangesReport, ChangesReported, Overlap
from flakes.wire.workspaces import path_text
from flakes.workspace.git import Git, GitFailed, WorkspaceError, split

log = structlog.get_logger(__name__)

T = TypeVar("T")

EVERY_S: Final = 3.0
"""Between two looks, at least."""
ALONE_S: Final = 20.0
"""The same, while no other task of the run runs."""
BLIND_S: Final = 60.0
"""Between two looks where not everything can be watched."""
PART: Final = 50
"""A look may take this part of the time."""


class Lookout:
    """Of one attempt. `begin` before the task starts."""

    def __init__(
        self, assignment_id: str, work: Path, place: Path, forwarder: Asks, say: Callable[[str], object],
        *, isolated: bool,
    ) -> None:  # fmt: skip
        """`place` is the daemon's own directory of the attempt, with `objects.git` and `index`."""
        self._assignment_id = assignment_id
        self._forwarder = forwarder
        self._say = say
        self._isolated = isolated
        self._index = place / "index.lookout"
        self._source = place / "index"
        self._git = Git(place / "objects.git").over(work, self._index)
        self._work = work
        self._told: list[str] = []
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._source.exists():
            shutil.copyfile(self._source, self._index)
            self._task = asyncio.create_task(self._run(), name="lookout")

    async def close(self) -> None:
        """Until nothing of it looks any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        watch = Watch(self._work, self._ignored)
        try:
            await _apart(watch.begin)
            while True:  # the first time at once: the task may have been quicker than the watch
                began_s = time.monotonic()
                await _apart(watch.settle)
                paths = await _apart(self._changed)
                took_s = time.monotonic() - began_s
                alone = await self._report(paths)
                await asyncio.sleep(max(ALONE_S if alone else EVERY_S, PART * took_s))
                await watch.changed(None if watch.complete else BLIND_S)
        except (OSError, GitFailed, WorkspaceError) as error:
            log.info("overlaps are not looked for", reason=str(error)[:300])
        finally:
            watch.close()

    async def _report(self, paths: list[str]) -> bool:
        """Say what has changed, if that is another than before; whether no other task of the run runs."""
        if paths == self._told:
            return False
        body = ChangesReport(paths=paths[:WORKSPACE_CHANGES_MAX])
        status, answer = await self._forwarder.ask(self._assignment_id, "workspace.changing", encode(body))
        if status != 200:
            return True
        self._told = paths
        try:
            reported = decode(answer, ChangesReported)
        except BodyError:
            return True
        for each in reported.fresh:
            self._say(_sentence(each))
        return reported.alone

    def _changed(self) -> list[str]:
        """Paths that differ from what the task began with, but for ignored ones; blocking."""
        settings = (f"core.excludesFile={os.devnull}",)
        if not self._isolated:  # a file that was only touched is told from one that differs, by reading it
            self._git.run("update-index", "-q", "--refresh", good=(0, 1), settings=settings)
        found = self._git.run("diff-files", "--name-only", "-z", settings=settings)
        found += self._git.run("ls-files", "--others", "--exclude-standard", "-z", settings=settings)
        return sorted({path_text(path) for path in split(found)})

    def _ignored(self, paths: Sequence[str]) -> set[str]:
        if not paths:
            return set()
        said = self._git.run(
            "--no-literal-pathspecs", "check-ignore", "-z", "--stdin", "--no-index",
            stdin=[f"./{path}/" for path in paths], good=(0, 1, 128),
            settings=(f"core.excludesFile={os.devnull}",),
        )  # fmt: skip
        return {path.removeprefix("./").rstrip("/") for path in split(said)}


def _sentence(met: Overlap) -> str:
    more = f" and {met.count - len(met.paths)} more" if met.count > len(met.paths) else ""
    does = "changes them too" if met.how == "changed" else "has reserved them"
    return f"overlap: the task {met.task_key} {does}: {', '.join(met.paths)}{more}"


async def _apart(do: Callable[[], T]) -> T:
    """Do it in a thread; when cancelled, not before it has ended."""
    doing = asyncio.ensure_future(asyncio.to_thread(do))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await asyncio.wait({doing})
        raise
