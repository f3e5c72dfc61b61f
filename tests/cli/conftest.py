"""A fake control plane, and the `flakes` command pointed at it, apart from the user's own files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.fake_plane import TOKEN, FakePlane
from flakes.cli.main import run_cli


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


@pytest.fixture
def plane() -> Iterator[FakePlane]:
    with FakePlane() as serving:
        yield serving


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLAKES_SERVER", "FLAKES_TOKEN", "FLAKES_SESSION", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLAKES_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "nothing").mkdir()
    monkeypatch.chdir(tmp_path / "nothing")  # which holds no files that a run would take


@pytest.fixture
def flakes() -> Callable[..., Ran]:
    """Run a command line without a server."""

    def run(*argv: str) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        code = run_cli(argv, out, err)
        return Ran(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def remote(
    plane: FakePlane, flakes: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Run a command line against the fake control plane."""
    monkeypatch.setenv("FLAKES_SERVER", plane.url)
    monkeypatch.setenv("FLAKES_TOKEN", TOKEN)
    return flakes
