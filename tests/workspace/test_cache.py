"""The packs of a machine: shared by processes, bounded, and whole after any kill."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flakes.workspace import packs
from flakes.workspace.cache import Cache
from flakes.workspace.git import Git, WorkspaceError
from workspace.test_round import Bench
from workspace.theirs import write


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, a_txt="a" * 100)


def chain(bench: Bench) -> list[tuple[str, Path, str]]:
    """Two packs, the second builds on the first: digest, file and the commit that is there afterwards."""
    write(bench.root, a_txt="b" * 100)
    later = bench.snapshot().commit
    first, second = bench.tmp / "first", bench.tmp / "second"
    packs.pack(bench.taken.git, bench.base, to=first)
    packs.pack(bench.taken.git, later, without=[bench.base], to=second)
    return [(digest_of(first), first, bench.base), (digest_of(second), second, later)]


def test_a_pack_is_taken_in_once_and_linked_ever_after(bench: Bench) -> None:
    cache = Cache(bench.tmp / "cache")
    one, other = Git.at(bench.tmp / "one.git"), Git.at(bench.tmp / "other.git")
    for digest, path, made in chain(bench):
        assert not cache.take(digest, other)
        cache.add(digest, path, one)
        cache.add(digest, path, one)
        assert cache.take(digest, other)
        assert cache.take(digest, other)
        assert other.has(made)
    other.run("fsck", "--strict", chain(bench)[1][2])


def test_what_was_used_longest_ago_goes_and_its_users_do_not_notice(bench: Bench) -> None:
    (first, first_path, base), (second, second_path, later) = chain(bench)
    git = Git.at(bench.tmp / "one.git")
    cache = Cache(bench.tmp / "cache")
    cache.add(first, first_path, git)
    cache.add(second, second_path, git)
    whole = cache.trim()
    places = {digest: bench.tmp / "cache" / "packs" / digest[7:] for digest in (first, second)}
    then = time.time() - 100
    os.utime(places[second], (then, then))
    assert 0 < Cache(bench.tmp / "cache", size_bytes_max=whole - 1).trim() < whole
    assert cache.take(first, Git.at(bench.tmp / "two.git"))
    assert not cache.take(second, Git.at(bench.tmp / "two.git"))
    assert Cache(bench.tmp / "cache", kept_s=-1).trim() == 0
    git.run("fsck", "--strict", base, later)


def test_bytes_that_are_no_pack_are_refused_and_not_kept(bench: Bench) -> None:
    (_, path, _), _ = chain(bench)
    path.write_bytes(path.read_bytes()[:-30])
    cache = Cache(bench.tmp / "cache")
    with pytest.raises(WorkspaceError, match="cannot be used"):
        cache.add(digest_of(path), path, Git.at(bench.tmp / "one.git"))
    assert cache.trim() == 0


_HAMMER = """
import sys
from pathlib import Path
from flakes.workspace.cache import Cache
from flakes.workspace.git import Git
cache, store, rounds, packs = Cache(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
print("up", flush=True)
for number in range(rounds):
    git = Git.at(store / str(number))
    for pair in packs:
        digest, path = pair.split("=")
        if not cache.take(digest, git):
            cache.add(digest, Path(path), git)
    if number % 3 == 0:
        Cache(cache.root, size_bytes_max=1).trim()
"""


def hammer(bench: Bench, name: str, rounds: int) -> subprocess.Popen[str]:
    given = [f"{digest}={path}" for digest, path, _ in chain(bench)]
    argv = [
        sys.executable,
        "-c",
        _HAMMER,
        bench.tmp / "cache",
        bench.tmp / name,
        str(rounds),
        *given,
    ]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def test_processes_share_it_while_one_evicts_and_one_is_killed(bench: Bench) -> None:
    *_, (_, _, later) = chain(bench)
    doomed = hammer(bench, "doomed", 10_000)
    assert doomed.stdout is not None
    assert doomed.stdout.readline() == "up\n"
    working = [hammer(bench, name, 6) for name in ("one", "two")]
    assert [process.wait(60) for process in working] == [0, 0]
    doomed.send_signal(signal.SIGKILL)
    doomed.wait(30)
    doomed.stdout.close()
    assert [process.communicate()[0] for process in working] == ["up\n", "up\n"]
    for name in ("one", "two"):
        for number in range(6):
            assert Git.at(bench.tmp / name / str(number)).has(f"{later}^{{tree}}")
    for left in (bench.tmp / "cache" / "new").iterdir():
        os.utime(left, (0, 0))
    Cache(bench.tmp / "cache").trim()
    assert list((bench.tmp / "cache" / "new").iterdir()) == []
