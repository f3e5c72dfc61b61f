"""A place for local sessions that the database's user can reach, and that is empty of processes after."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flakes.session.down import down
from flakes.session.layout import Layout


@pytest.fixture(scope="module")
def shared_dir() -> Iterator[Path]:
    """One data directory a module: making a database takes seconds, starting one does not."""
    # Not pytest's own directory: nobody but its owner can pass that, and the database is not its owner.
    path = Path(tempfile.mkdtemp(prefix="flakes-session-", dir="/tmp"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def session(shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    """The layout of a session that does not run when the test begins, nor when it has ended."""
    monkeypatch.setenv("FLAKES_DATA_DIR", str(shared_dir / "data"))
    for name in ("FLAKES_SERVER", "FLAKES_TOKEN", "FLAKES_SESSION"):
        monkeypatch.delenv(name, raising=False)
    (shared_dir / "nothing").mkdir(exist_ok=True)
    monkeypatch.chdir(shared_dir / "nothing")  # which holds no files that a run would take
    chosen = Layout(shared_dir / "data", "default")
    down(chosen)
    yield chosen
    down(chosen)
