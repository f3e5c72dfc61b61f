"""Embedded servers for the tests of their life: directories they may have, processes that start them, what they refuse.

A conftest or a test module takes what it needs by name; `place`, `seed` and `data_dir` are fixtures.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from flakes.store import embedded_process
from flakes.store.embedded import ConnectionInfo, EmbeddedPostgres, EmbeddedPostgresError
from postgres import scratch_dir

FORGETFUL = {"fsync": "off"}  # these data directories never outlive their test
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = pwd.getpwnam("nobody")


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A directory that every account reaches, with no server left in it afterwards."""
    place = Path(tempfile.mkdtemp(prefix="flakes-embedded-", dir=scratch_dir()))
    place.chmod(0o711)
    try:
        yield place
    finally:
        for cluster in place.rglob("PG_VERSION"):
            if cluster.parent.name == "data":
                EmbeddedPostgres(cluster.parent.parent).stop("immediate")
        shutil.rmtree(place)


@pytest.fixture
def place() -> Iterator[Path]:
    with workplace() as place:
        yield place


@pytest.fixture(scope="session")
def seed() -> Iterator[Path]:
    """An initialised data directory at rest, holding one table with one row."""
    with workplace() as place:
        server = EmbeddedPostgres(place / "pg", settings=FORGETFUL)
        with connect(server.start()) as conn:
            conn.execute("create table kept (word text)")
            conn.execute("insert into kept values ('first')")
        server.stop()
        yield place / "pg"


@pytest.fixture
def data_dir(place: Path, seed: Path) -> Path:
    """A copy of the seed."""
    subprocess.run(["cp", "-a", seed, place / "pg"], check=True)
    return place / "pg"


class Log(list[str]):
    def __call__(self, line: str) -> None:
        self.append(line)

    def tells(self, words: str) -> bool:
        return any(words in line for line in self)


def server_at(data_dir: Path, log: Callable[[str], None] = lambda line: None) -> EmbeddedPostgres:
    return EmbeddedPostgres(data_dir, settings=FORGETFUL, log=log)


def connect(info: ConnectionInfo) -> psycopg.Connection:
    return psycopg.connect(info.dsn, autocommit=True)


def words(info: ConnectionInfo) -> list[str]:
    with connect(info) as conn:
        return [word for (word,) in conn.execute("select word from kept order by word")]


def postmaster(data_dir: Path) -> int:
    found = embedded_process.read_pid_file(data_dir / "data")
    assert found is not None
    assert embedded_process.is_postmaster(found.pid, data_dir / "data")
    return found.pid


def wait_until(condition: Callable[[], object], timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def python(code: str, *args: object) -> subprocess.Popen[str]:
    """A process of its own that runs this code with the product at hand."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )


ACTIVE = "select 1 from pg_stat_activity where pid = %s and query like 'select count%%' and state = 'active'"

START = """
    import dataclasses, json, sys
    from pathlib import Path
    from flakes.store.embedded import EmbeddedPostgres
    info = EmbeddedPostgres(Path(sys.argv[1]), settings={"fsync": "off"}).start()
    print(json.dumps({"started": info.started_by_us, "dsn": info.dsn}), flush=True)
"""


def refused(code: str, action: Callable[[], object]) -> EmbeddedPostgresError:
    with pytest.raises(EmbeddedPostgresError) as caught:
        action()
    assert caught.value.code == code, caught.value
    assert caught.value.fix
    return caught.value


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    disk = place / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0711", "none", disk])
    if mounted.returncode != 0:
        pytest.skip("this machine does not let us mount a small file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)
