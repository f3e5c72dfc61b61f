"""Every route of the table: it works, and it is closed to whoever it does not belong to.

The cases are made from `ENDPOINTS`; a new route without one fails here.
"""

from __future__ import annotations

import pytest

from api.caller import Api, operation_of
from api.plane import Server
from api.routes import CASES, World, build, request
from flakes.server.app import ENDPOINTS
from flakes.server.routing import Endpoint

BY_NAME = {f"{endpoint.method} {endpoint.path}": endpoint for endpoint in ENDPOINTS}
CLOSED = {key: endpoint for key, endpoint in BY_NAME.items() if endpoint.family is not None}
NAMING = {key: endpoint for key, endpoint in CLOSED.items() if "{" in endpoint.path}
MAKES_ITS_OWN = {
    "GET /v1/auth/device/{userCode}": 200,
    "POST /v1/auth/device/{userCode}": 200,
    "PUT /v1/projects/{projectKey}": 201,
    "PUT /v1/runs/{run}": 400,
    "POST /v1/runs/{run}/graph": 400,
}
"""Routes where the name in the path is that of the new thing: a key of somebody else's is free, and an id is no key.
And a device is nobody's until somebody who knows its code has approved it."""


@pytest.fixture(scope="session")
def world(server: Server) -> World:
    return build(server.account())


@pytest.mark.parametrize("key", BY_NAME)
def test_the_route_works(world: World, key: str) -> None:
    endpoint = BY_NAME[key]
    case = CASES.get((endpoint.method, endpoint.path))
    assert case is not None, f"{key} has no case in tests/api/routes.py"
    assert case(world, endpoint.path).status < 300


def test_no_case_is_left_over() -> None:
    assert CASES.keys() == {(e.method, e.path) for e in ENDPOINTS}


@pytest.mark.parametrize("key", CLOSED)
def test_the_route_needs_a_credential(world: World, key: str) -> None:
    path = world.fill(CLOSED[key].path)
    token = world.api.token
    assert token is not None
    head, _, secret = token.partition(".")
    twisted = f"{head}.{'A' if secret[0] != 'A' else 'B'}{secret[1:]}"
    family = f"{head.replace('flakes_user_', 'flakes_host_')}.{secret}"
    for wrong in (None, "nonsense", ".", head, f"{head}.", twisted, family, f"{token}x", "ü.x"):
        headers = {} if wrong is None else {"Authorization": f"Bearer {wrong}".encode()}
        answer = Api(world.api.url, None).call(CLOSED[key].method, path, headers=headers)  # type: ignore[arg-type]
        answer.refused("unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    basic = {"Authorization": f"Basic {token}"}
    Api(world.api.url, None).call(CLOSED[key].method, path, headers=basic).refused("unauthorized")


@pytest.mark.parametrize("key", CLOSED)
def test_a_credential_of_another_family_does_not_do(world: World, key: str) -> None:
    endpoint = CLOSED[key]
    wrong = world.sandbox_api if endpoint.family == "user" else world.api
    wrong.call(endpoint.method, world.fill(endpoint.path)).refused("forbidden")


@pytest.mark.parametrize("key", NAMING)
def test_nobody_reaches_what_is_another_accounts(world: World, other: Api, key: str) -> None:
    endpoint = NAMING[key]
    path = world.fill(endpoint.path)
    if endpoint.family == "sandbox":
        _, token = other.sandbox()
        request(world, endpoint, path, other.as_(token)).refused("forbidden")
        return
    before = _picture(world)
    answer = request(world, endpoint, path, other)
    if key in MAKES_ITS_OWN:
        assert answer.status == MAKES_ITS_OWN[key]
    else:
        answer.refused("not_found")
        nothing = endpoint.path
        for name, value in world.names.items():
            missing = f"{value[:-3]}zzz" if "_" in value else f"{value}-missing"
            nothing = nothing.replace(f"{{{name}}}", missing)
        same = request(world, endpoint, nothing, other).refused("not_found")
        assert same == answer.json, "what is somebody else's looks like what does not exist"
    assert _picture(world) == before


def test_a_project_of_another_account_takes_no_run(world: World, other: Api) -> None:
    project = world.api.get(f"/v1/projects/{world.names['projectKey']}").ok()
    for reference in ({"projectId": project["projectId"]}, {"projectKey": project["projectKey"]}):
        other.put("/v1/runs/mine", {"name": "x", **reference}).refused("not_found")
        body = {"name": "x", **reference, "tasks": [{"taskKey": "a", "title": "a", "adapter": "x"}]}
        other.post("/v1/runs/mine/graph", body).refused("not_found")
    assert other.get("/v1/runs").ok()["runs"] == []


def test_lists_hold_ones_own_things_only(world: World, other: Api) -> None:
    for path, plural in (
        ("/v1/projects", "projects"), ("/v1/runs", "runs"), ("/v1/hosts", "hosts"),
        ("/v1/sandboxes", "sandboxes"), ("/v1/artifacts", "artifacts"),
    ):  # fmt: skip
        assert world.api.get(path).ok()[plural]
        assert other.get(path).ok() == {plural: [], "nextCursor": None}


def test_sandboxes_of_one_owner_are_fenced_from_each_other(world: World) -> None:
    """F26: the credential of one sandbox opens nothing of another one."""
    sandbox_id, token = world.api.sandbox()
    mate = world.api.as_(token)
    for endpoint in (e for e in ENDPOINTS if e.family == "sandbox"):
        request(world, endpoint, world.fill(endpoint.path), mate).refused("forbidden")
    base = f"/v1/sandboxes/{sandbox_id}"
    mate.get(f"{base}/assignments/{world.names['assignmentId']}").refused("stale_assignment")
    mate.get(f"{base}/blobs/{world.names['digest']}").refused("not_found")


@pytest.mark.parametrize("key", BY_NAME)
def test_the_document_has_the_route(key: str) -> None:
    endpoint: Endpoint = BY_NAME[key]
    operation = operation_of(endpoint.method, endpoint.path)
    assert operation is not None
    assert operation["summary"] == endpoint.summary
    assert bool(operation["security"]) == (endpoint.family is not None)
    assert ("requestBody" in operation) == (endpoint.body is not None)


def _picture(world: World) -> list[object]:
    paths = (
        "/v1/projects/{projectKey}", "/v1/runs/{run}", "/v1/runs/{run}/tasks", "/v1/tasks/{taskId}",
        "/v1/hosts/{hostId}", "/v1/tasks/{taskId}/result",
        "/v1/artifacts/{artifactId}", "/v1/runs/{run}/outputs",
    )  # fmt: skip
    return [world.api.get(world.fill(path)).ok() for path in paths]
