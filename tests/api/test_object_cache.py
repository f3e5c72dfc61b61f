"""The server's one cache of objects: used by many at once, emptied under their hands, and cleaned up by itself."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from api.caller import Api
from api.plane import Server
from api.routes import diffed
from embedded_servers import wait_until


def test_many_compare_at_once_while_packs_are_evicted(server: Server, api: Api) -> None:
    states = [{"a.txt": f"{n}\n".encode() * 50, f"only-{n}": b"x"} for n in range(6)]
    handles = diffed(api, *states)
    kept = server.directory / "workspaces" / "packs"

    def compared(number: int) -> tuple[int, list[str], list[str]]:
        which = number % (len(handles) - 1) + 1
        if number % 7 == 3:
            for place in list(kept.iterdir()) if kept.is_dir() else ():
                with suppress(OSError):  # as an eviction does: away by one rename
                    place.rename(place.with_name(f"gone-{number}-{place.name}"))
                    shutil.rmtree(place.with_name(f"gone-{number}-{place.name}"))
        found = api.get(f"/v1/workspaces/{handles[which]}/diff").ok()
        return which, [f["path"] for f in found["files"]], [f.get("patch", "") for f in found["files"]]

    with ThreadPoolExecutor(8) as pool:
        for which, paths, patches in pool.map(compared, range(40)):
            assert paths == sorted(["a.txt", f"only-{which}", f"only-{which - 1}"])
            assert f"+{which}\n" in patches[0]
    wait_until(lambda: not list((server.directory / "workspaces").glob("at-work-*")))


def test_what_a_killed_process_left_goes(server: Server, api: Api) -> None:
    root = server.directory / "workspaces"
    left, fresh = root / "at-work-left", root / "at-work-fresh"
    for place in (left, fresh):
        (place / "objects.git").mkdir(parents=True)
    old = time.time() - 7_200
    os.utime(left, (old, old))
    one, other = diffed(api, {"a": os.urandom(50)}, {"a": os.urandom(50)})
    try:
        assert api.get(f"/v1/workspaces/{other}/diff", base=one).ok()["fileCount"] == 1
        assert not left.exists()
        assert fresh.exists(), "somebody may be at work there"
    finally:
        shutil.rmtree(fresh)
