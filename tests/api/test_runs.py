"""Projects, runs and graphs: what may be sent twice, what conflicts, and what a graph may be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from api.caller import Api, name, task


def test_a_project_put_twice(api: Api) -> None:
    path = f"/v1/projects/{name('p')}"
    body = {"name": " P ", "metadata": {"b": [1, {"c": None}], "a": 1.5}}
    made = api.put(path, body).ok(201)
    assert made["name"] == "P"
    turned = {"metadata": dict(reversed(body["metadata"].items())), "name": "P"}  # type: ignore[union-attr]
    assert api.put(path, turned).ok(200) == made
    assert api.put(path, body | {"projectKey": made["projectKey"]}).ok(200) == made
    api.put(path, body | {"name": "Q"}).refused("project_conflict")
    api.put(path, {"name": "P"}).refused("project_conflict")
    api.put(path, body | {"projectKey": "another"}).refused("invalid_request")
    assert api.get(path).ok() == made
    assert api.get(f"/v1/projects/{made['projectId']}").ok() == made


def test_an_archived_project_takes_no_run(api: Api) -> None:
    project = api.project()
    before = api.run(project)
    first = api.post(f"/v1/projects/{project}/archive").ok(200)
    assert api.post(f"/v1/projects/{project}/archive").ok(200) == first
    body = {"name": "r", "projectKey": project}
    api.put("/v1/runs/late", body).refused("project_archived")
    api.post("/v1/runs/late/graph", body | {"tasks": [task("a")]}).refused("project_archived")
    api.get("/v1/runs/late").refused("not_found")
    again = {"name": before["name"], "projectKey": project}
    assert api.put(f"/v1/runs/{before['runKey']}", again).ok(200)["runId"] == before["runId"]


def test_a_run_put_twice(api: Api) -> None:
    project = api.get(f"/v1/projects/{api.project()}").ok()
    body = {"name": "R", "projectKey": project["projectKey"], "budget": {"tokens": 5}}
    made = api.put("/v1/runs/twice", body).ok(201)
    assert made["budget"]["tokens"] == 5
    assert api.put("/v1/runs/twice", body).ok(200) == made
    by_id = {"name": "R", "projectId": project["projectId"], "budget": {"tokens": 5}}
    assert api.put("/v1/runs/twice", by_id).ok(200) == made
    for other in (
        {"name": "S"}, {"budget": None}, {"metadata": {"a": 1}}, {"projectKey": api.project()},
    ):  # fmt: skip
        refused = api.put("/v1/runs/twice", body | other).refused("run_conflict")
        assert refused["runId"] == made["runId"]
    both = body | {"projectId": project["projectId"]}
    for wrong in (both, {"name": "R"}, body | {"runKey": "other"}):
        api.put("/v1/runs/twice", wrong).refused("invalid_request")
    assert api.get("/v1/runs/twice").ok() == made


def test_the_same_put_from_many_sides_makes_one_run(api: Api) -> None:
    body = {"name": "R", "projectKey": api.project()}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.put("/v1/runs/raced", body), range(16)))
    assert sorted(a.status for a in answers) == [200] * 15 + [201]
    assert len({a.json["runId"] for a in answers}) == 1


def test_the_same_graph_from_many_sides_is_admitted_once(api: Api) -> None:
    body = {"name": "R", "projectKey": api.project(), "tasks": [task(f"t{n}") for n in range(20)]}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.post("/v1/runs/raced/graph", body), range(16)))
    assert sorted(a.status for a in answers) == [200] * 15 + [201]
    assert len({tuple(t["taskId"] for t in a.json["tasks"]) for a in answers}) == 1
    assert answers[0].json["run"]["taskCounts"] == {"QUEUED": 20}


def test_a_graph_replays_and_grows_until_the_run_is_closed(api: Api) -> None:
    project = api.project()
    first = {"name": "R", "projectKey": project, "tasks": [task("a"), task("b", dependsOn=["a"])]}
    path = "/v1/runs/growing/graph"
    made = api.post(path, first).ok(201)
    assert [(t["taskKey"], t["status"]) for t in made["tasks"]] == [("a", "QUEUED"), ("b", "BLOCKED")]
    assert api.post(path, first).ok(200) == made

    # A task that is there already, in another graph.
    api.post(path, first | {"tasks": [task("a"), task("c")]}).refused("run_conflict")
    # Another name is another run.
    api.post(path, first | {"name": "S"}).refused("run_conflict")
    assert [t["taskKey"] for t in api.get("/v1/runs/growing/tasks").ok()["tasks"]] == ["a", "b"]

    more = first | {"tasks": [task("c", dependsOn=["b"])], "close": True}
    grown = api.post(path, more).ok(201)
    assert [t["taskKey"] for t in grown["tasks"]] == ["a", "b", "c"]
    assert grown["run"]["closed"] is True
    assert api.post(path, first).ok(200)["run"]["runId"] == made["run"]["runId"]
    assert api.post(path, more).ok(200)["run"]["closed"] is True
    api.post(path, first | {"tasks": [task("d")]}).refused("run_closed")
    api.put("/v1/runs/growing/tasks/d", task("d")).refused("run_closed")


def test_a_cancelled_run_takes_nothing_more(api: Api) -> None:
    made = api.graph(task("a"), key="stopped")
    api.put("/v1/runs/stopped/tasks/late", task("late")).ok(201)
    assert api.post("/v1/runs/stopped/cancel", {"reason": "enough"}).ok(202)["cancelRequested"]
    body = {"name": "stopped", "projectKey": made["run"]["projectKey"], "tasks": [task("b")]}
    api.post("/v1/runs/stopped/graph", body).refused("run_closed")
    api.put("/v1/runs/stopped/tasks/b", task("b")).refused("run_closed")


def test_the_shape_of_a_graph(api: Api) -> None:
    project = api.project()

    def refused(*tasks: dict[str, Any]) -> dict[str, Any]:
        body = {"name": "R", "projectKey": project, "tasks": list(tasks)}
        return api.post("/v1/runs/shape/graph", body).refused("graph_invalid")

    unknown = refused(task("build"), task("test", dependsOn=["biuld"]))
    assert unknown["message"] == "task 'test' depends on unknown task 'biuld'"
    assert unknown["fix"] == "did you mean 'build'?"
    itself = refused(task("a", dependsOn=["a"]))
    assert itself["message"] == "task 'a' depends on itself"
    twice = refused(task("a"), task("a", adapter="other"))
    assert twice["message"] == "task key 'a' comes twice"
    cycle = refused(
        task("a", dependsOn=["c"]), task("b", dependsOn=["a"]), task("c", dependsOn=["b"]), task("d")
    )
    assert set(cycle["cycle"]) == {"a", "b", "c"}
    assert "cycle" in cycle["message"]
    assert " -> ".join(cycle["cycle"]) in cycle["message"]
    api.get("/v1/runs/shape").refused("not_found")


def test_saving_and_admitting_in_parts(api: Api) -> None:
    run = api.run()["runKey"]
    tasks = f"/v1/runs/{run}/tasks"
    api.put(f"{tasks}/a", {"title": "A", "adapter": "x"}).ok(201)
    api.put(f"{tasks}/a", {"title": "A2", "adapter": "y"}).ok(200)
    api.put(f"{tasks}/b", task("b", dependsOn=["a"])).ok(201)
    api.put(f"{tasks}/b", task("other")).refused("invalid_request")
    alone = api.post(f"{tasks}/admit", {"taskKeys": ["b"]}).refused("graph_invalid")
    assert "'a'" in alone["message"]
    api.post(f"{tasks}/admit", {"taskKeys": ["b", "nothing"]}).refused("graph_invalid")
    for wrong in ({}, {"all": True, "taskKeys": ["a"]}):
        api.post(f"{tasks}/admit", wrong).refused("invalid_request")
    assert {t["status"] for t in api.get(tasks).ok()["tasks"]} == {"SAVED"}

    assert [t["status"] for t in api.post(f"{tasks}/admit", {"taskKeys": ["a"]}).ok()["tasks"]] == ["QUEUED"]
    api.put(f"{tasks}/a", {"title": "A2", "adapter": "y"}).ok(200)
    api.put(f"{tasks}/a", {"title": "A3", "adapter": "y"}).refused("task_admitted")
    assert [t["taskKey"] for t in api.post(f"{tasks}/admit", {"all": True}).ok()["tasks"]] == ["b"]
    assert api.post(f"{tasks}/admit", {"all": True}).ok()["tasks"] == []
    assert api.get(f"{tasks}/b").ok()["dependsOn"] == ["a"]
    assert api.get(f"{tasks}/a").ok()["definition"]["title"] == "A2"


def test_cancel_retry_and_delete(api: Api) -> None:
    made = api.graph(task("a"), task("b", dependsOn=["a"]), key="ended")
    first, second = (t["taskId"] for t in made["tasks"])
    api.post(f"/v1/tasks/{first}/retry").refused("task_not_retryable")
    api.get(f"/v1/tasks/{first}/result").refused("result_not_ready")
    cancelled = api.post(f"/v1/tasks/{first}/cancel", {"reason": "not now"}).ok(202)
    assert cancelled["error"] == {"code": "cancelled", "message": "not now"}
    assert api.task(second)["status"] == "FAILED"
    assert api.get(f"/v1/tasks/{first}/result").ok()["status"] == "CANCELLED"
    api.get(f"/v1/tasks/{first}/outputs/report").refused("not_found")
    assert api.post("/v1/runs/ended/retry").ok()["taskCounts"] == {"QUEUED": 1, "BLOCKED": 1}
    api.post("/v1/runs/ended/cancel").ok(202)
    api.delete("/v1/runs/ended").ok()
    api.get(f"/v1/tasks/{first}").refused("not_found")
    api.put("/v1/runs/ended", {"name": "again", "projectKey": made["run"]["projectKey"]}).ok(201)


def test_a_refusal_for_an_early_result_names_the_state(api: Api) -> None:
    made = api.graph(task("a"))["tasks"][0]["taskId"]
    refused = api.get(f"/v1/tasks/{made}/result").refused("result_not_ready")
    assert set(refused) == {"error", "message", "fix", "taskStatus"}
    assert refused["taskStatus"] == "QUEUED"


def test_an_empty_project_names_no_project(api: Api) -> None:
    body: dict[str, object] = {"name": "x", "tasks": [task("only")]}
    for reference in ("projectKey", "projectId"):
        api.put("/v1/runs/made", {"name": "x", reference: ""}).refused("not_found")
        api.post("/v1/runs/made/graph", body | {reference: ""}).refused("not_found")
