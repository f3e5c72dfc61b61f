"""What a request may look like: bodies, query strings, names; and what a refusal tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from api.caller import Answer, Api, name, task
from api.plane import Server
from api.routes import BODIES, World, build
from flakes.server.app import ENDPOINTS

WITH_BODY = {f"{e.method} {e.path}": e for e in ENDPOINTS if e.body not in (None, bytes)}
CLOSED = {f"{e.method} {e.path}": e for e in ENDPOINTS if e.family is not None}


@pytest.fixture(scope="session")
def world(server: Server) -> World:
    return build(server.account())


SIGNED_OUT: dict[str, Callable[[World], dict[str, object]]] = {
    "/v1/auth/sign-up": lambda _: {"email": "a@example.com", "password": "a long password"},
    "/v1/auth/verify": lambda _: {"verification": "x", "code": "000000"},
    "/v1/auth/sign-in": lambda _: {"email": "a@example.com", "password": "a long password"},
    "/v1/auth/forgot-password": lambda _: {"email": "a@example.com"},
    "/v1/auth/reset-password": lambda _: {"verification": "x", "code": "000000", "newPassword": "a long password"},
    "/v1/auth/device/code": lambda _: {},
    "/v1/auth/device/token": lambda _: {"deviceCode": "x"},
}


@pytest.mark.parametrize("key", WITH_BODY)
def test_an_unknown_field_is_refused_by_name(world: World, key: str) -> None:
    endpoint = WITH_BODY[key]
    made = BODIES.get((endpoint.method, endpoint.path)) or SIGNED_OUT[endpoint.path]
    body = made(world) | {"surplus": 1}
    api = world.api if endpoint.family != "sandbox" else world.sandbox_api
    refused = api.call(endpoint.method, world.fill(endpoint.path), body).refused("invalid_request")
    assert refused["issues"] == [{"path": "surplus", "message": "unknown field `surplus`"}]
    assert "surplus" in refused["message"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not valid JSON"),
        (b'{"name": }', "not valid JSON"),
        (b'{"name": NaN}', "not valid JSON"),
        (b'{"name": "a"} x', "not valid JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b'"name"', "Expected `object`, got `str`"),
        (b"", "missing required field `name`"),
        (b'{"name": 3}', "Expected `str`, got `int`"),
        (b'{"name": "\xff"}', "not UTF-8"),
        (b'{"name": "x", "metadata": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}", "too deeply"),
        (b'{"name": "x", "metadata": {"n": 1e999}}', "out of range"),
    ],
)  # fmt: skip
def test_a_body_that_is_not_what_the_route_takes(api: Api, content: bytes, says: str) -> None:
    key = name("project")
    answer = api.call("PUT", f"/v1/projects/{key}", content=content)
    assert says in answer.refused("invalid_request")["message"]
    api.get(f"/v1/projects/{key}").refused("not_found")


def test_a_typo_gets_a_suggestion_and_a_path(api: Api) -> None:
    body = {"name": "r", "projectKey": api.project(), "tasks": [task("a"), task("b", dependson=["a"])]}
    refused = api.post("/v1/runs/typo/graph", body).refused("invalid_request")
    assert refused["issues"] == [
        {
            "path": "tasks[1].dependson",
            "message": "unknown field `dependson`; did you mean `dependsOn`?",
        }
    ]
    nested = task("a", retry={"maxAttempt": 3})
    refused = api.post("/v1/runs/typo/graph", body | {"tasks": [nested]}).refused("invalid_request")
    assert "did you mean `maxAttempts`?" in refused["issues"][0]["message"]


@pytest.mark.parametrize("key", CLOSED)
def test_an_unknown_query_parameter_is_refused_by_name(world: World, key: str) -> None:
    endpoint = CLOSED[key]
    caller = world.api if endpoint.family == "user" else world.sandbox_api
    body = BODIES.get((endpoint.method, endpoint.path))
    answer = caller.call(
        endpoint.method, world.fill(endpoint.path), body(world) if body else None, limt=1
    )
    refused = answer.refused("invalid_request")
    assert refused["issues"][0]["path"] == "limt"


def test_a_query_parameter_of_the_wrong_form(api: Api) -> None:
    def refused(path: str, **query: Any) -> str:
        return api.get(path, **query).refused("invalid_request")["message"]

    assert "did you mean `limit`" in refused("/v1/runs", limt=5)
    assert "limit" in refused("/v1/runs", limit="many")
    for limit in (0, -1, 201):
        body = api.get("/v1/runs", limit=limit).refused("invalid_request")
        assert body["limit"] == 200
    assert "unknown run state 'DONE'" in refused("/v1/runs", state="DONE")
    run = api.run()["runId"]
    assert "unknown task status" in refused(f"/v1/runs/{run}/tasks", status="DONE")
    assert "10000" in refused(f"/v1/runs/{run}/tasks", limit=10_001)
    made = api.graph(task("a"))["tasks"][0]["taskId"]
    assert "channel" in refused(f"/v1/tasks/{made}/logs", channel="stdlog")
    assert "exclude" in refused(f"/v1/tasks/{made}/logs", tail=1, after="x")
    assert "1000" in refused(f"/v1/tasks/{made}/logs", limit=1_001)
    assert "cursor" in refused(f"/v1/tasks/{made}/logs", after="nonsense")
    assert "cursor" in refused(f"/v1/tasks/{made}/activity", after="nonsense")
    assert "cursor" in refused("/v1/events", after="nonsense")
    assert "unknown event type" in refused("/v1/events", types="run.created,run.exploded")


def test_text_that_the_database_cannot_hold_is_refused(api: Api) -> None:
    """A NUL is valid JSON and no valid text: a refusal, not a failure of ours."""
    project = api.project()
    run = api.run(project)["runId"]
    for answer in (
        api.put(f"/v1/projects/{name('p')}", {"name": "a\0b"}),
        api.put(f"/v1/runs/{run}/tasks/a", task("a") | {"title": "a\0b"}),
        api.put(f"/v1/runs/{run}/tasks/a", task("a", adapter="a\0b")),
        api.get("/v1/runs", cursor="a\0b"),
        api.get("/v1/runs", projectKey="a\0b"),
        api.get("/v1/projects/a%00b"),
        api.get("/v1/tasks/a%00b"),
        api.get(f"/v1/runs/{run}/tasks/a%00b"),
        api.get("/v1/events", runId="a\0b"),
    ):
        answer.refused("invalid_request")
    assert api.get(f"/v1/runs/{run}/tasks").ok()["tasks"] == []


def test_cursors_at_the_edge_of_numbers(api: Api) -> None:
    made = api.graph(task("a"))["tasks"][0]["taskId"]
    for cursor in ("0-0", "9999999999999999999-9999999999999999999", "1-9223372036854775807"):
        assert "events" in api.get(f"/v1/tasks/{made}/activity", after=cursor).ok()
    for cursor in (f"assignment_{'0' * 26}:999999999", f"assignment_{'z' * 26}:0"):
        assert api.get(f"/v1/tasks/{made}/logs", after=cursor).ok()["logs"] == []


def test_refusals_show_nothing_of_the_inside(api: Api) -> None:
    """Whatever goes wrong, no exception text, SQL or path of a file is in an answer."""
    answers: list[Answer] = [
        api.call("PUT", "/v1/projects/x", content=b'{"name": "\xff"}'),
        api.get("/v1/tasks/a%00b"),
        api.get("/v1/runs", limit="x"),
        api.get("/v1/tasks/task_1' or 1=1 --"),
        api.call("PUT", "/v1/projects/x", {"name": {"a": 1}}),
    ]
    for answer in answers:
        text = answer.content.decode().lower()
        assert 400 <= answer.status < 500
        for word in ("traceback", "psycopg", "select ", "exception", ".py", "postgresql"):
            assert word not in text, text


def test_an_internal_error_hides_its_text_and_logs_it(server: Server) -> None:
    """A fault of ours is a 500 with a request id; its text is in the log under that id alone."""
    api = server.account()
    run_id = api.run()["runId"]
    with server.connect() as conn:
        # A row that the code cannot read: only a broken database has one.
        conn.execute("update runs set counts = '{1}' where run_id = %s", [run_id])
    answer = api.post(f"/v1/runs/{run_id}/close")
    refused = answer.refused("internal_error")
    assert set(refused) == {"error", "message", "fix", "requestId"}
    assert "zip" not in answer.content.decode()
    log = server.log_file.read_text()
    assert refused["requestId"] in log


@pytest.mark.parametrize(
    ("declaration", "path"),
    [
        ({"kind": "json", "schema": {"type": "nope"}}, "schema.type"),
        ({"kind": "json", "schema": {"properties": {"a": {"$ref": "http://x.example/y"}}}}, "schema.properties.a['$ref']"),
        ({"kind": "text", "schema": {}}, "schema"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_used_is_refused_before_anything_runs(
    api: Api, declaration: dict[str, object], path: str
) -> None:
    broken = task("b", declaredOutputs={"out": declaration})
    body = {"name": "r", "projectKey": api.project(), "tasks": [task("a"), broken]}
    told = api.post("/v1/runs/schemas/graph", body).refused("invalid_request")
    assert [issue["path"] for issue in told["issues"]] == [f"tasks.b.declaredOutputs.out.{path}"]
    api.get("/v1/runs/schemas").refused("not_found")
    run = api.run()["runKey"]
    api.put(f"/v1/runs/{run}/tasks/b", broken).refused("invalid_request")
    fine = task("b", declaredOutputs={"out": {"kind": "json", "schema": {"type": "object"}}})
    api.put(f"/v1/runs/{run}/tasks/b", fine).ok(201)
