"""A diff of 10,000 files and of one of 100 MB: pages come in bounded time, and bounded memory of the server and its git."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.caller import Api
from api.plane import Server
from e2e.stage import say
from flakes.core.limits import WORKSPACE_DIFF_PAGE_BYTES_MAX
from flakes.workspace.capture import capture
from flakes.workspace.commits import commit
from flakes.workspace.git import Git
from flakes.workspace.packs import pack

FILES = 10_000
MIB = 1024**2


class Memory(threading.Thread):
    """The most that a process and what it starts have held at once, in MiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.most_mib = 0.0
        self._process = psutil.Process(pid)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.01):
            held = 0
            for process in [self._process, *self._process.children(recursive=True)]:
                try:
                    held += process.memory_full_info().uss
                except psutil.Error:
                    continue
            self.most_mib = max(self.most_mib, held / MIB)

    def __enter__(self) -> Memory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def handle(api: Api, git: Git, place: Path, base: tuple[str, str, list[dict[str, object]]] | None) -> tuple[str, str, list[dict[str, object]]]:
    """(workspace id, commit, packs) of the files as they are."""
    tree = capture(git.over(place, place.with_name("index")))
    made = commit(git, tree, "Files", parents=[base[1]] if base else [])
    path = place.with_name("pack")
    pack(git, made, without=[base[1]] if base else [], to=path)
    content = path.read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    body = {"kind": "workspace-pack", "digest": digest, "sizeBytes": len(content)}
    artifact = api.post("/v1/artifacts", body).ok(201)
    api.call("PUT", f"/v1/artifacts/{artifact['artifactId']}/content", content=content).ok()
    packs = [*(base[2] if base else []), {"digest": digest, "sizeBytes": len(content)}]
    fields = {"baseWorkspaceId": base[0]} if base else {}
    stored = api.post("/v1/workspaces", {"commit": made, "tree": tree, "packs": packs, **fields}).ok(201)
    return stored["workspaceId"], made, packs


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_large_diffs_are_paged_in_bounded_memory(server: Server, tmp_path: Path) -> None:
    api = server.account()
    git, place = Git.at(tmp_path / "objects.git"), tmp_path / "files"
    for number in range(FILES):
        path = place / f"d{number % 100}" / f"f{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
    (place / "wide.txt").write_text("x\n" * 400_000)
    base = handle(api, git, place, None)
    for path in place.glob("*/*.txt"):
        path.write_text(f"changed {path.name}\n")
    (place / "wide.txt").write_text("y\n" * 400_000)
    with (place / "large.bin").open("wb") as file:
        for _ in range(100):
            file.write(os.urandom(MIB))
    (place / "odd\udcff\n.txt").write_bytes(b"\xff\xfe not UTF-8\n" * 3)
    changed, _, _ = handle(api, git, place, base)
    seen: dict[str, dict[str, Any]] = {}
    cursor, times, sizes = None, [], []
    with Memory(server.pid) as memory:
        while True:
            began_s = time.monotonic()
            answer = api.get(f"/v1/workspaces/{changed}/diff", limit=200, **({"cursor": cursor} if cursor else {}))
            times.append(time.monotonic() - began_s)
            sizes.append(len(answer.content))
            page = answer.ok()
            assert page["fileCount"] == FILES + 3
            seen |= {each["path"]: each for each in page["files"]}
            cursor = page.get("nextCursor")
            if cursor is None:
                break
    say(f"{len(times)} pages, first {times[0]:.2f} s, then median {sorted(times)[len(times) // 2]:.2f} s; at most {memory.most_mib:.0f} MiB")
    assert len(seen) == FILES + 3
    assert seen["large.bin"]["omitted"] == "too_large"
    assert seen["d7/f7.txt"]["patch"].endswith("-7\n+changed f7.txt\n")
    assert "patchBase64" in next(each for path, each in seen.items() if path.startswith("odd"))
    assert max(sizes) < 3 * WORKSPACE_DIFF_PAGE_BYTES_MAX
    assert memory.most_mib < 500
