"""Deleting runs: at once when nothing of them lives, else cancelled first and finished by the janitor."""

from __future__ import annotations

import pytest

from api.caller import Api, name, task
from api.following import following
from api.peer import adapter, lines, sandbox
from api.plane import Server
from embedded_servers import wait_until
from flakes.wire import sandbox_stream

TABLES = (
    "tasks", "assignments", "task_payloads", "task_dependencies", "task_results", "ready_tasks",
    "log_chunks", "task_logs",
)  # fmt: skip


def test_a_queued_run_goes_at_once(api: Api) -> None:
    made = api.graph(task("a"), task("b", dependsOn=["a"]))
    run = made["run"]["runId"]
    assert api.delete(f"/v1/runs/{run}").ok(200) == {"status": "deleted", "runId": run}
    api.get(f"/v1/runs/{run}").refused("not_found")
    api.get(f"/v1/tasks/{made['tasks'][0]['taskId']}").refused("not_found")
    api.delete(f"/v1/runs/{run}").refused("not_found")


def test_a_running_run_is_cancelled_first_and_takes_nothing_new(server: Server) -> None:
    """F12: it is gone only when the sandbox has confirmed that nothing of it runs."""
    api = server.account()
    own, key = adapter(), name("run")
    project = api.project()
    made = api.graph(task("a", own), task("b", own, dependsOn=["a"]), key=key, projectKey=project)
    run = made["run"]["runId"]
    with sandbox(api, adapters=[own]) as peer:
        running = peer.start()
        peer.deliver(lines(running.assignment_id, "one"))
        with following(api, runId=run, types="run.delete_requested,run.deleted") as stream:
            assert api.delete(f"/v1/runs/{key}").ok(202) == {"status": "deleting", "runId": run}
            assert peer.expect(sandbox_stream.Cancel).assignment_ids == [running.assignment_id]
            assert stream.next().event == "run.delete_requested"
            shown = api.get(f"/v1/runs/{run}").ok()
            assert (shown["deleting"], shown["cancelRequested"]) == (True, True)
            assert api.delete(f"/v1/runs/{run}").ok(202)["status"] == "deleting"
            for refused in (
                api.put(f"/v1/runs/{run}/tasks/more", task("more")),
                api.put(f"/v1/runs/{key}", {"name": key, "projectKey": project}),
                api.post(f"/v1/runs/{key}/graph", {"name": key, "projectKey": project, "tasks": [task("c")]}),
                api.post(f"/v1/runs/{run}/retry", {}),
                api.post(f"/v1/tasks/{made['tasks'][1]['taskId']}/retry", {}),
            ):  # fmt: skip
                refused.refused("run_deleting")
            api.get(f"/v1/runs/{run}").ok()
            peer.finish(running.assignment_id, "cancelled")
            assert stream.next().event == "run.deleted"
    api.get(f"/v1/runs/{run}").refused("not_found")
    with server.connect() as conn:
        ids = [t["taskId"] for t in made["tasks"]]
        for table in TABLES:
            column = "assignment_id" if table == "log_chunks" else "task_id"
            values = [running.assignment_id] if table == "log_chunks" else ids
            left = conn.execute(f"select count(*) from {table} where {column} = any(%s)", [values])
            assert left.fetchone() == (0,), table
    assert api.put(f"/v1/runs/{key}", {"name": "again", "projectKey": project}).ok(201)


def test_many_that_wait_do_not_hold_up_one_that_may_go(api: Api) -> None:
    own = adapter()
    with sandbox(api, adapters=[own], max_concurrency=30) as peer:
        runs = {}
        for _ in range(25):
            made = api.graph(task("long", own))
            offered = peer.start()
            runs[made["run"]["runId"]] = offered.assignment_id
        for run in runs:
            api.delete(f"/v1/runs/{run}").ok(202)
        last = list(runs)[-1]
        peer.finish(runs[last], "cancelled")
        wait_until(lambda: api.get(f"/v1/runs/{last}").status == 404)
        assert api.get(f"/v1/runs/{next(iter(runs))}").ok()["deleting"] is True
        for run, assignment_id in runs.items():
            if run != last:
                peer.finish(assignment_id, "cancelled")
        wait_until(lambda: api.get("/v1/runs").ok()["runs"] == [])


def test_a_delete_outlives_the_server(tmp_path_factory: pytest.TempPathFactory, database: str) -> None:
    """kill -9 between the request and the end of the last task (F02)."""
    from api.plane import serving

    own = adapter()
    with serving(tmp_path_factory.mktemp("deleting"), database) as server:
        api = server.account()
        who = api.sandbox()
        run = api.graph(task("long", own))["run"]["runId"]
        with sandbox(api, who, adapters=[own]) as peer:
            running = peer.start()
        api.delete(f"/v1/runs/{run}").ok(202)
        server.kill()
        server.start()
        api = Api(server.url, api.token)
        holds = {running.assignment_id: "running"}
        with sandbox(api, who, adapters=[own], holds=holds) as peer:
            peer.expect(sandbox_stream.Cancel)
            peer.finish(running.assignment_id, "cancelled")
            wait_until(lambda: api.get(f"/v1/runs/{run}").status == 404)
