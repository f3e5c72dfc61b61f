"""Fan-out and fan-in: one task makes children, yields its slot, and goes on when all have ended.

The parent is a command in a real daemon that fills a group, or a harness that awaits all; its children are no-ops.
Asked for: 1,000 children under 15 s, and the server's memory the same after each. N is how many, PARENT which.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from bench.fleet import Fleet, daemon
from bench.measure import emit
from bench.plane import Plane, plane

PIECE = 250


def parent(children: int) -> dict[str, object]:
    """A task that runs from its beginning after each yield: every command of it finds what it had done."""
    make = (
        "import json,sys;"
        "json.dump([dict(title='c',adapter='noop') for _ in range(int(sys.argv[1]))],sys.stdout)"
    )
    spawn = " && ".join(
        f"{sys.executable} -c \"{make}\" {min(PIECE, children - at)} > part.json"
        f" && flakes tasks spawn --file part.json --group fan --operation-id part-{at} > spawned"
        for at in range(0, children, PIECE)
    )
    line = f"flakes groups open fan && {spawn} && flakes groups close fan && flakes wait --group fan --hold 0 || exit $?"
    grants = ["flakes.tasks.spawn", "flakes.groups"]
    return {
        "taskKey": "parent", "title": "Parent", "adapter": "command", "input": {"shell": line},
        "toolGrants": grants,
    }  # fmt: skip


HARNESS = """
from flakes.harness import define_harness

@define_harness
async def main(ctx):
    results = await ctx.all(ctx.agent("nothing", adapter="noop", title=f"N {n}") for n in range(ctx.args["children"]))
    return ctx.succeeded(count=len(results))
"""


def planner(children: int) -> dict[str, object]:
    """The same as a harness."""
    return {
        "taskKey": "parent", "title": "Parent", "adapter": "harness", "toolGrants": ["flakes.tasks.spawn", "flakes.groups"],
        "input": {"source": HARNESS, "args": {"children": children}},
    }  # fmt: skip


PARENTS = {"command": parent, "harness": planner}


def run_once(server: Plane, key: str, children: int, kind: str) -> dict[str, object]:
    """Submit the parent and wait for the end of the run."""
    cpu = server.cpu_s()
    started = time.monotonic()
    with server.client() as client:
        body = {"name": key, "projectKey": "bench", "tasks": [PARENTS[kind](children)], "close": True}
        client.post(f"/v1/runs/{key}/graph", json=body).raise_for_status()
        while True:
            run = client.get(f"/v1/runs/{key}").json()
            if run.get("completedAt"):
                break
            if time.monotonic() - started > float(os.environ.get("PATIENCE_S", "300")):
                raise SystemExit(json.dumps(run))
            time.sleep(0.05)
        elapsed_s = time.monotonic() - started
        assert run["state"] == "SUCCEEDED", run
        assert run["taskCounts"] == {"SUCCEEDED": children + 1}, run
        task = client.get(f"/v1/runs/{key}/tasks/parent").json()
    return {
        "elapsed_s": round(elapsed_s, 2), "attempts": [a["state"] for a in task["attempts"]],
        "server_cpu_s": round(server.cpu_s() - cpu, 2), "server_mib": round(server.memory_mib(), 1),
    }  # fmt: skip


def main() -> None:
    children = int(os.environ.get("N") or "1000")
    kinds = os.environ.get("PARENT", "command,harness").split(",")
    with plane() as server, daemon(server, 2, '"command", "harness"'):
        fleet = Fleet(server, 4, 64)
        # Reports that nobody reads would stop the clients once they fill the pipe.
        threading.Thread(target=lambda: list(fleet.reports()), daemon=True).start()
        for kind in kinds:
            for n in range(int(os.environ.get("RUNS", "3"))):
                ran = run_once(server, f"{kind}-{n}", children, kind)
                emit("groups", parent=kind, children=children, **ran)
        fleet.close()


if __name__ == "__main__":
    main()
