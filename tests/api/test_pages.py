"""Walking lists by cursor: nothing twice, nothing left out, while rows are added; and what lists do not load."""

from __future__ import annotations

import threading
from typing import Any

from api.caller import Api, name, task
from api.peer import adapter, lines, sandbox
from api.plane import Server
from flakes.store import tasks as statements


def walk(api: Api, path: str, plural: str, limit: int, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get(path, limit=limit, **cursor, **query).ok()
        assert len(page[plural]) <= limit
        found += page[plural]
        if page.get("nextCursor") is None:
            return found
        assert page[plural]
        cursor = {"cursor": page["nextCursor"]}


def test_runs_newest_first_while_runs_are_added(api: Api) -> None:
    project = api.project()
    there = [api.run(project)["runKey"] for _ in range(11)]
    stop = threading.Event()

    def add() -> None:
        while not stop.is_set():
            api.run(project)

    adding = threading.Thread(target=add)
    adding.start()
    try:
        for limit in (1, 3, 11, 200):
            keys = [run["runKey"] for run in walk(api, "/v1/runs", "runs", limit)]
            assert len(set(keys)) == len(keys), "no run comes twice"
            assert [key for key in keys if key in there] == there[::-1]
    finally:
        stop.set()
        adding.join()


def test_a_page_that_is_exactly_full_is_followed_by_an_empty_one_or_none(api: Api) -> None:
    project = api.project()
    for _ in range(4):
        api.run(project)
    assert len(walk(api, "/v1/runs", "runs", 2)) == 4
    assert len(walk(api, "/v1/runs", "runs", 4)) == 4


def test_runs_by_state_and_project(api: Api) -> None:
    one, two = api.project(), api.project()
    queued = api.graph(task("a"), projectKey=one)["run"]["runKey"]
    empty = [api.run(two)["runKey"] for _ in range(3)]
    assert [r["runKey"] for r in walk(api, "/v1/runs", "runs", 1, state="QUEUED")] == [queued]
    assert [r["runKey"] for r in walk(api, "/v1/runs", "runs", 2, projectKey=two)] == empty[::-1]
    assert walk(api, "/v1/runs", "runs", 2, projectKey=two, state="QUEUED") == []


def test_tasks_in_the_order_they_were_saved_while_tasks_are_added(api: Api) -> None:
    run = api.run()["runKey"]
    path = f"/v1/runs/{run}/tasks"
    there = [f"t{n}" for n in range(11)]
    for key in there:
        api.put(f"{path}/{key}", task(key)).ok(201)
    added: list[str] = []
    stop = threading.Event()

    def add() -> None:
        while not stop.is_set() and len(added) < 60:
            key = name("more")
            api.put(f"{path}/{key}", task(key)).ok(201)
            added.append(key)

    adding = threading.Thread(target=add)
    adding.start()
    try:
        for limit in (2, 5, 11):
            keys = [t["taskKey"] for t in walk(api, path, "tasks", limit)]
            assert keys[: len(there)] == there
            assert len(set(keys)) == len(keys)
    finally:
        stop.set()
        adding.join()
    keys = [t["taskKey"] for t in walk(api, path, "tasks", 7)]
    assert keys == there + added
    assert walk(api, path, "tasks", 7, status="QUEUED") == []


def test_projects_hosts_and_sandboxes_have_pages_too(api: Api) -> None:
    projects = [api.project() for _ in range(5)]
    assert [p["projectKey"] for p in walk(api, "/v1/projects", "projects", 2)] == projects[::-1]
    hosts = [api.host()[0] for _ in range(5)]
    assert [h["hostId"] for h in walk(api, "/v1/hosts", "hosts", 2)] == hosts[::-1]
    sandboxes = [api.sandbox()[0] for _ in range(5)]
    assert [s["sandboxId"] for s in walk(api, "/v1/sandboxes", "sandboxes", 2)] == sandboxes[::-1]


def test_a_list_of_tasks_does_not_load_what_they_hold(server: Server, api: Api) -> None:
    """F27: neither definitions nor results are in the answer, nor read by the statement behind it."""
    own = adapter()
    word = name("payload")
    body = word + "x" * 250_000
    tasks = [task(f"t{n}", own, bodyMarkdown=body, input={"w": word}) for n in range(4)]
    made = api.graph(*tasks, key=name("big"))
    with sandbox(api, adapters=[own], max_concurrency=4) as peer:
        for _ in tasks:
            peer.finish(peer.start().assignment_id, text=word + "y" * 100_000)
    path = f"/v1/runs/{made['run']['runKey']}/tasks"
    for query in ({}, {"status": "SUCCEEDED"}):
        answer = api.get(path, **query)
        assert len(answer.ok()["tasks"]) == 4
        assert word.encode() not in answer.content
        assert len(answer.content) < 4 * 1_000
    assert word.encode() in api.get(f"/v1/tasks/{made['tasks'][0]['taskId']}").content

    params = {
        "run_id": made["run"]["runId"], "after": "", "status": "SUCCEEDED", "limit": 100,
        "task_ids": [each["taskId"] for each in made["tasks"]], "owner_id": api.get("/v1/me").ok()["userId"],
    }  # fmt: skip
    with server.connect() as conn:
        for statement in (statements._PAGE, statements._PAGE_STATUS, statements._SHORT):
            text = "\n".join(line for (line,) in conn.execute(f"explain {statement}", params).fetchall())
            assert "tasks" in text
            assert "task_payloads" not in text
            assert "task_results" not in text


def test_activity_and_logs_in_pages(api: Api) -> None:
    own = adapter()
    made = api.graph(task("a", own))["tasks"][0]["taskId"]
    with sandbox(api, adapters=[own]) as peer:
        assignment = peer.start().assignment_id
        first = 0
        for count in (1, 7, 3, 12):
            texts = [f"line {n}" for n in range(first, first + count)]
            peer.deliver(lines(assignment, *texts, first=first))
            first += count
        peer.finish(assignment)
    whole = api.get(f"/v1/tasks/{made}/logs", limit=1000).ok()
    assert [entry["text"] for entry in whole["logs"]] == [f"line {n}" for n in range(23)]
    for limit in (1, 4, 23, 24):
        found: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = api.get(f"/v1/tasks/{made}/logs", limit=limit, **after).ok()
            if not page["logs"]:
                break
            found += [entry["text"] for entry in page["logs"]]
            after = {"after": page["nextCursor"]}
        assert found == [f"line {n}" for n in range(23)]
        assert page["nextCursor"] == after["after"], "the end can be followed"
    tail = api.get(f"/v1/tasks/{made}/logs", tail=5).ok()
    assert [entry["text"] for entry in tail["logs"]] == [f"line {n}" for n in range(18, 23)]
    assert tail["nextCursor"] == whole["nextCursor"]
    assert api.get(f"/v1/tasks/{made}/logs", channel="stderr").ok()["logs"] == []

    events = api.activity(made, "task.succeeded")
    after, found_events = {}, []
    while True:
        page = api.get(f"/v1/tasks/{made}/activity", limit=1, **after).ok()
        if not page["events"]:
            break
        found_events += page["events"]
        after = {"after": page["nextCursor"]}
    assert found_events == events
    assert [e["type"] for e in events] == ["task.admitted", "task.running", "task.succeeded"]
