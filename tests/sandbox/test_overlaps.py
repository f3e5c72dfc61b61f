"""What is noticed of a task's files while it runs: every change that counts, and nothing when there is none."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from flakes.sandbox import overlaps
from flakes.sandbox.overlaps import Lookout
from flakes.sandbox.watching import Watch
from flakes.wire.codec import decode, encode
from flakes.wire.overlaps import ChangesReport, ChangesReported, Overlap
from flakes.workspace.checkout import check_out
from flakes.workspace.commits import commit
from flakes.workspace.git import Git

pytestmark = pytest.mark.anyio
PATIENCE_S = 30.0


class Server:
    """Takes reports, and answers that another task has all of it too."""

    def __init__(self) -> None:
        self.reports: asyncio.Queue[list[str]] = asyncio.Queue()

    async def ask(self, assignment_id: str, operation: str, body: bytes) -> tuple[int, bytes]:
        assert (assignment_id, operation) == ("assignment_a", "workspace.changing")
        paths = decode(body, ChangesReport).paths
        await self.reports.put(paths)
        met = [Overlap(task_id="task_b", task_key="b", how="changed", paths=paths, count=len(paths))]
        return 200, encode(ChangesReported(fresh=met if paths else [], alone=False))

    async def next(self) -> list[str]:
        return await asyncio.wait_for(self.reports.get(), PATIENCE_S)


def files(tmp_path: Path) -> tuple[Path, Path]:
    """A work tree with some files, and the daemon's own place."""
    place = tmp_path / "place"
    place.mkdir()
    store = Git.at(place / "objects.git")
    source = tmp_path / "source"
    (source / "src" / "deep").mkdir(parents=True)
    for name in ("a.txt", "src/b.py", "src/deep/c.py"):
        (source / name).write_text(f"{name}\n")
    (source / ".gitignore").write_text("build/\n*.log\n")
    over = store.over(source, tmp_path / "index")
    over.run("add", "--all")
    check_out(store, commit(store, over.text("write-tree"), "base"), tmp_path / "work", place / "index")
    return tmp_path / "work", place


async def test_what_changes_is_reported_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlaps, "EVERY_S", 0.05)
    work, place = files(tmp_path)
    server, said = Server(), list[str]()
    lookout = Lookout("assignment_a", work, place, server, said.append, isolated=False)
    before = (place / "index").read_bytes()
    lookout.begin()
    try:
        (work / "src" / "b.py").write_text("changed\n")
        assert await server.next() == ["src/b.py"]
        (work / "new" / "inner").mkdir(parents=True)
        (work / "new" / "inner" / "x").write_text("x")
        assert await server.next() == ["new/inner/x", "src/b.py"]
        (work / "a.txt").unlink()
        assert await server.next() == ["a.txt", "new/inner/x", "src/b.py"]
        # In a directory that was made meanwhile; and what was only touched, or is ignored, does not count.
        (work / "build").mkdir()
        (work / "build" / "out").write_text("o")
        (work / "x.log").write_text("o")
        os.utime(work / "src" / "deep" / "c.py")
        (work / "new" / "inner" / "x").rename(work / "new" / "inner" / "y")
        assert await server.next() == ["a.txt", "new/inner/y", "src/b.py"]
        (work / "a.txt").write_text("a.txt\n")
        (work / "src" / "b.py").write_text("src/b.py\n")
        (work / "new" / "inner" / "y").unlink()
        while await server.next():
            pass
    finally:
        await lookout.close()
    assert said[0] == "overlap: the task b changes them too: src/b.py"
    assert (place / "index").read_bytes() == before, "the index that the end is told by is another one"


async def test_nothing_is_looked_at_while_nothing_changes(tmp_path: Path) -> None:
    work, _ = files(tmp_path)
    (work / "build" / "much").mkdir(parents=True)
    watch = Watch(work, lambda paths: {path for path in paths if path == "build"})
    try:
        watch.begin()
        assert watch.complete
        watch.settle()
        (work / "build" / "much" / "out").write_text("ignored directories are not watched")
        (work / ".git" / "index.tmp").write_text("nor is git's own")
        waiting = asyncio.create_task(watch.changed(None))
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done
        (work / "src" / "deep" / "c.py").write_text("changed")
        await asyncio.wait_for(waiting, PATIENCE_S)
    finally:
        watch.close()


async def test_a_tree_that_is_too_large_to_watch_is_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flakes.sandbox.watching.DIRECTORIES_MAX", 1)
    monkeypatch.setattr(overlaps, "BLIND_S", 0.1)
    monkeypatch.setattr(overlaps, "EVERY_S", 0.05)
    work, place = files(tmp_path)
    server = Server()
    lookout = Lookout("assignment_a", work, place, server, lambda _: None, isolated=True)
    lookout.begin()
    try:
        (work / "src" / "deep" / "c.py").write_text("changed where nobody watches")
        assert await server.next() == ["src/deep/c.py"]
    finally:
        await lookout.close()
