"""Files of a run: capturing, packing and checking out a repository of `N` files, each beside what git itself takes for
the nearest thing in the same minute. Wall clock and processor time of the children, medians of `ROUNDS`.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import emit
from flakes.workspace import packs
from flakes.workspace.cache import Cache
from flakes.workspace.checkout import check_out
from flakes.workspace.git import Git
from flakes.workspace.snapshot import Snapshot, snapshot

FILES = 50_000
ROUNDS = 3
WORDS = ["import", "return", "value", "self", "state", "index", "begin", "end", "file", "tree", "commit", "object", "name", "path", "other", "while"]


def fill(root: Path, files: int) -> None:
    """Text of one to four KiB a file, as source has it."""
    rng = random.Random(7)
    for number in range(files):
        path = root / f"d{number % 97}" / f"e{number // 97 % 53}" / f"f{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(" ".join(rng.choices(WORDS, k=9)) for _ in range(rng.randrange(15, 70))))


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


def timed(do: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor, its children included."""
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    began = time.perf_counter()
    do()
    took = time.perf_counter() - began
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True))
    return took, cpu


def compared(what: str, ours: list[tuple[float, float]], theirs: list[tuple[float, float]], like: str) -> None:
    clock, peer = (statistics.median(each[0] for each in some) for some in (ours, theirs))
    emit("workspaces", what=what, seconds=round(clock, 2), cpu_s=round(statistics.median(e[1] for e in ours), 2),
         like=like, git_seconds=round(peer, 2), ratio=round(clock / peer, 2))  # fmt: skip


def added(root: Path, index: Path, objects: Path) -> Callable[[], None]:
    """`git add -A && git write-tree` with an index and objects of its own."""
    env = os.environ | {
        "GIT_INDEX_FILE": str(index), "GIT_OBJECT_DIRECTORY": str(objects),
    }  # fmt: skip

    def do() -> None:
        objects.mkdir(exist_ok=True)
        subprocess.run(["git", "add", "-A"], cwd=root, check=True, env=env)
        subprocess.run(["git", "write-tree"], cwd=root, check=True, env=env, capture_output=True)

    return do


def main() -> None:
    files = int(os.environ.get("N") or FILES)
    place = Path(tempfile.mkdtemp(prefix="flakes-bench-"))
    try:
        root = place / "r"
        root.mkdir()
        git(root, "init", "--quiet")
        fill(root, files)
        capturing(place, root)
        git(root, "add", "-A")
        git(root, "commit", "--quiet", "-m", "first")
        transporting(place, root)
    finally:
        shutil.rmtree(place)


def capturing(place: Path, root: Path) -> None:
    kinds: dict[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]] = {
        name: ([], []) for name in ("first", "unchanged", "one changed")
    }
    for number in range(ROUNDS):
        state = place / f"state{number}"
        theirs = added(root, place / f"index{number}", place / f"objects{number}")
        for name in kinds:
            if name == "one changed":
                (root / "d1" / "e0" / "f1.txt").write_text(f"changed {number}\n")
            kinds[name][0].append(timed(lambda state=state: snapshot(root, state)))
            kinds[name][1].append(timed(theirs))
        shutil.rmtree(state)
        shutil.rmtree(place / f"objects{number}")
    for name, (ours, theirs_) in kinds.items():
        compared(f"capture, {name}", ours, theirs_, "git add -A && git write-tree")


def transporting(place: Path, root: Path) -> None:
    taken = snapshot(root, place / "state")
    whole = packs.pack(taken.git, taken.commit, to=place / "whole")
    path = root / "d1" / "e0" / "f1.txt"
    path.write_text(path.read_text() + "one line more\n")
    later = snapshot(root, place / "state")
    size = packs.pack(later.git, later.commit, without=[taken.commit], to=place / "more")
    emit("workspaces", what="pack of a one-line change", bytes=size, whole_bytes=whole)
    again: list[tuple[float, float]] = []
    first: list[tuple[float, float]] = []
    cloned: list[tuple[float, float]] = []
    tree: list[tuple[float, float]] = []
    for number in range(ROUNDS):
        cache = Cache(place / f"cache{number}")
        for some, name in ((first, "a"), (again, "b")):
            some.append(timed(lambda n=f"{name}{number}", c=cache: materialized(place, n, taken, c)))
        cloned.append(timed(lambda n=number: git(place, "clone", "--quiet", "--local", str(root), f"clone{n}")))
        tree.append(timed(lambda n=number: git(root, "worktree", "add", "--quiet", "--detach", f"{place}/w{n}")))
        for name in (f"a{number}", f"b{number}", f"clone{number}", f"w{number}", f"cache{number}"):
            shutil.rmtree(place / name)
        git(root, "worktree", "prune")
    compared("materialize on a host, first", first, cloned, "git clone --local")
    compared("materialize on a host, again", again, tree, "git worktree add")


def materialized(place: Path, name: str, taken: Snapshot, cache: Cache) -> None:
    """As the daemon does it, with the pack at hand."""
    target = place / name
    store = Git.at(target / "objects.git")
    digest = "sha256:" + "0" * 64
    if not cache.take(digest, store):
        cache.add(digest, place / "whole", store)
    check_out(store, taken.commit, target / "work", target / "index")


if __name__ == "__main__":
    main()
