"""Many at once: 64 children that finish together (F16), and one pass over 100 tasks and 20 sandboxes (F18)."""

from __future__ import annotations

import asyncio
import time

from bench.fleet import Fleet
from bench.measure import emit
from bench.plane import Plane, plane
from flakes.server.loops.leadership import Leadership
from flakes.server.loops.scheduler import Scheduler
from flakes.server.plane import Plane as ServerPlane
from flakes.store import links, projects, sandboxes
from flakes.store.accounts import create_user
from flakes.store.admission import graph
from flakes.store.blobs import BlobStore
from flakes.store.database import Database
from flakes.wire.config import ServerConfig
from flakes.wire.hosts import SandboxPost
from flakes.wire.projects import ProjectPut
from flakes.wire.runs import GraphPost
from flakes.wire.sandbox_stream import Hello
from flakes.wire.tasks import TaskDefinition


def together(server: Plane, children: int) -> None:
    """Every child on a sandbox of its own; all results leave at the same instant."""
    fleet = Fleet(server, children, 1, "hold")
    names = [f"c{n}" for n in range(children)]
    tasks = [{"taskKey": name, "title": name, "adapter": "noop"} for name in names]
    tasks.append({"taskKey": "join", "title": "join", "adapter": "noop", "dependsOn": names})
    with server.client() as client:
        body = {"name": "t", "projectKey": "bench", "close": True, "tasks": tasks}
        client.post("/v1/runs/together/graph", json=body).raise_for_status()
        reports = fleet.reports()
        held = 0
        while held < children:
            held += "holding" in next(reports)
        released = time.monotonic()
        fleet.release()
        acked = 0
        joined_s = None
        for report in reports:
            acked += report.get("acked", 0)
            if "join" in report.get("offered", ()):
                joined_s = report["at"] - released
            if acked >= children and joined_s is not None:
                break
        acked_s = report["at"] - released
    fleet.close()
    log = (server.directory / "server.log").read_text()
    errors = log.count("[error") + log.count("deadlock")
    emit("children_finish_together", n=children, all_acked_ms=round(acked_s * 1000, 1),
         next_task_delivered_ms=round((joined_s or 0) * 1000, 1), errors=errors)  # fmt: skip


async def one_pass(dsn: str, tasks: int, count: int) -> None:
    """One pass of the scheduler, in this process, against the same database."""
    database = Database(dsn)
    await database.open()
    server = ServerPlane(ServerConfig(), database, BlobStore.open("/tmp/flakes-bench-blobs"))
    leadership = Leadership(server)
    await leadership.run_once()
    async with database.transaction() as conn:
        owner = await create_user(conn, "pass")
        await projects.put(conn, owner, "pass", ProjectPut(name="pass"))
        for n in range(count):
            answer = await sandboxes.register(conn, owner, SandboxPost(name=f"s{n}"))
            hello = Hello(protocol=1, sandbox_id=answer.sandbox.sandbox_id, boot="b", version="1",
                          max_concurrency=8, adapters=["noop"], capabilities=[], assignments=[])  # fmt: skip
            await sandboxes.greet(conn, hello)
            await links.up(conn, hello.sandbox_id, server.replica_id, "connection")
        definitions = [TaskDefinition(title="t", adapter="noop", task_key=f"t{n}") for n in range(tasks)]
        await graph(conn, owner, "pass", GraphPost(name="pass", project_key="pass", tasks=definitions))
    scheduler = Scheduler(server, leadership)
    statements = database.statements
    began = time.monotonic()
    await scheduler.run_once()
    elapsed_s = time.monotonic() - began
    placed = (await database.row(_PLACED))[0]
    emit("placement_pass", tasks=tasks, sandboxes=count, placed=placed, ms=round(elapsed_s * 1000, 1),
         statements=database.statements - statements)  # fmt: skip
    await database.close()


_PLACED = "select count(*) from assignments where live"


def main() -> None:
    with plane() as server:
        together(server, 64)
        dsn = server.dsn()
        server.process.send_signal(19)  # stopped: its scheduler must not take part
        try:
            time.sleep(6.5)  # its leadership runs out
            asyncio.run(one_pass(dsn, 100, 20))
        finally:
            server.process.send_signal(18)


if __name__ == "__main__":
    main()
