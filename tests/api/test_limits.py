"""Breaking a limit is a clear refusal with the limit in it, and changes nothing; reaching it is fine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from api.caller import Api, name, task
from flakes.core import limits


@pytest.fixture
def project(api: Api) -> str:
    return api.project()


def graph(api: Api, project: str, *tasks: dict[str, Any], **fields: Any) -> Any:
    body = {"name": "r", "projectKey": project, "tasks": list(tasks), **fields}
    return api.post("/v1/runs/limited/graph", body)


def unchanged(api: Api) -> None:
    api.get("/v1/runs/limited").refused("not_found")
    assert api.get("/v1/runs").ok()["runs"] == []


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"bodyMarkdown": "x" * (limits.TASK_BODY_SIZE_BYTES_MAX + 1)}, 262_144),
        ({"bodyMarkdown": "ä" * (limits.TASK_BODY_SIZE_BYTES_MAX // 2 + 1)}, 262_144),
        ({"input": {"text": "x" * limits.TASK_INPUT_SIZE_BYTES_MAX}}, 65_536),
        ({"metadata": {"text": "x" * limits.METADATA_SIZE_BYTES_MAX}}, 16_384),
    ],
)
def test_a_size(api: Api, project: str, fields: dict[str, Any], limit: int) -> None:
    refused = graph(api, project, task("a", **fields)).refused("limit_exceeded")
    assert refused["limit"] == limit
    assert refused["size"] > limit
    assert refused["path"].startswith("tasks.a.")
    unchanged(api)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"acceptance": ["x"] * 65}, "tasks[0].acceptance"),
        ({"acceptance": ["x" * 2_001]}, "tasks[0].acceptance[0]"),
        ({"title": ""}, "tasks[0].title"),
        ({"title": "x" * 501}, "tasks[0].title"),
        ({"adapter": "x" * 65}, "tasks[0].adapter"),
        ({"dependsOn": [f"t{n}" for n in range(1_001)]}, "tasks[0].dependsOn"),
        ({"requiredCapabilities": ["x"] * 65}, "tasks[0].requiredCapabilities"),
        ({"verify": ["true"] * 33}, "tasks[0].verify"),
        ({"declaredOutputs": {f"o{n}": {} for n in range(65)}}, "tasks[0].declaredOutputs"),
        ({"declaredOutputs": {"o": {"maxBytes": 64 * 1024**2 + 1}}}, "tasks[0].declaredOutputs"),
        ({"priority": 1_001}, "tasks[0].priority"),
        ({"retry": {"maxAttempts": 0}}, "tasks[0].retry.maxAttempts"),
        ({"retry": {"maxAttempts": 101}}, "tasks[0].retry.maxAttempts"),
        ({"timeoutS": 0}, "tasks[0].timeoutS"),
        ({"timeoutS": 31 * 24 * 3600}, "tasks[0].timeoutS"),
    ],
)  # fmt: skip
def test_a_field(api: Api, project: str, fields: dict[str, Any], path: str) -> None:
    refused = graph(api, project, task("a", **fields)).refused("invalid_request")
    assert refused["issues"][0]["path"].startswith(path), refused
    unchanged(api)


def test_what_is_just_within_the_limits(api: Api, project: str) -> None:
    big = task(
        "a" * 64,
        bodyMarkdown="x" * limits.TASK_BODY_SIZE_BYTES_MAX,
        acceptance=["x" * 2_000] * 64,
        title="x" * 500,
        input={"text": "x" * (limits.TASK_INPUT_SIZE_BYTES_MAX - 11)},
        metadata={"text": "x" * (limits.METADATA_SIZE_BYTES_MAX - 11)},
        declaredOutputs={f"o{n}": {} for n in range(64)},
    )
    made = graph(api, project, big, metadata=big["metadata"]).ok(201)
    read = api.task(made["tasks"][0]["taskId"])["definition"]
    assert {key: read[key] for key in ("bodyMarkdown", "acceptance", "input", "metadata")} == {
        key: big[key] for key in ("bodyMarkdown", "acceptance", "input", "metadata")
    }


@pytest.mark.parametrize("size", [limits.METADATA_SIZE_BYTES_MAX])
def test_metadata_and_names_of_projects_runs_and_hosts(api: Api, project: str, size: int) -> None:
    metadata = {"text": "x" * size}
    new = f"/v1/projects/{name('new')}"
    for answer in (
        api.put(new, {"name": "p", "metadata": metadata}),
        api.patch(f"/v1/projects/{project}", {"metadata": metadata}),
        api.put("/v1/runs/limited", {"name": "r", "projectKey": project, "metadata": metadata}),
        api.post("/v1/hosts/setup", {"metadata": metadata}),
    ):
        assert answer.refused("limit_exceeded")["limit"] == size
    for text in ("", "   ", "x" * 201):
        api.put(new, {"name": text}).refused("invalid_request")
        api.patch(f"/v1/projects/{project}", {"name": text}).refused("invalid_request")
    for text in ("", "x" * 201):
        api.put("/v1/runs/limited", {"name": text, "projectKey": project}).refused("invalid_request")
        api.post("/v1/sandboxes", {"name": text}).refused("invalid_request")
        api.post("/v1/hosts/setup", {"hostName": text}).refused("invalid_request")
    api.get(new).refused("not_found")
    unchanged(api)
    assert api.get("/v1/hosts").ok()["hosts"] == api.get("/v1/sandboxes").ok()["sandboxes"] == []
    assert api.get(f"/v1/projects/{project}").ok()["metadata"] == {}


@pytest.mark.parametrize(
    "key", ["A", "a_b", "-a", "a-", "a--b", "a.b", "ä", "a%20b", "x" * 65, "run_abc", "a%0Ab", "a%0A"]
)
def test_a_name_that_is_no_key(api: Api, project: str, key: str) -> None:
    run = api.run(project)["runKey"]
    for path, body in (
        (f"/v1/projects/{key}", {"name": "p"}),
        (f"/v1/runs/{key}", {"name": "r", "projectKey": project}),
        (f"/v1/runs/{key}/graph", {"name": "r", "projectKey": project, "tasks": [task("a")]}),
        (f"/v1/runs/{run}/tasks/{key}", {"title": "t", "adapter": "x"}),
    ):
        method = "POST" if path.endswith("/graph") else "PUT"
        refused = api.call(method, path, body).refused("invalid_request")
        assert "hyphens" in refused["fix"]
    assert len(api.get("/v1/runs").ok()["runs"]) == 1
    assert len(api.get("/v1/projects").ok()["projects"]) == 1


def test_a_graph_with_a_bad_key_inside(api: Api, project: str) -> None:
    for bad in (task("A"), {"title": "no key", "adapter": "x"}, task("a", declaredOutputs={"A": {}})):
        graph(api, project, task("fine"), bad).refused("invalid_request")
        unchanged(api)


def test_ten_thousand_tasks_and_one_more(api: Api, project: str) -> None:
    tasks = [task(f"t{n}") for n in range(10_001)]
    refused = graph(api, project, *tasks).refused("invalid_request")
    assert refused["issues"][0]["path"] == "tasks"
    assert "10000" in refused["issues"][0]["message"]
    unchanged(api)
    made = graph(api, project, *tasks[:-1]).ok(201)
    assert len(made["tasks"]) == 10_000
    assert made["run"]["taskCounts"] == {"QUEUED": 10_000}
    api.post("/v1/runs/limited/cancel").ok(202)


def test_a_body_beyond_32_mib(api: Api, project: str) -> None:
    """Refused whether or not the length is told before."""
    limit = limits.REQUEST_SIZE_BYTES_MAX
    path = "/v1/runs/limited/graph"
    told = _raw(api, "POST", path, {"Content-Length": str(limit + 1)}, iter([b" " * 1024]))
    assert b" 413 " in told.split(b"\r\n")[0]
    assert b'"too_large"' in told
    assert f'"limit":{limit}'.encode() in told

    def chunks() -> Iterator[bytes]:
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(limit // 0x100000 + 1):
            yield piece

    counted = _raw(api, "POST", path, {"Transfer-Encoding": "chunked"}, chunks())
    assert b'"too_large"' in counted
    unchanged(api)


def _raw(
    api: Api, method: str, path: str, headers: dict[str, str], pieces: Iterator[bytes]
) -> bytes:
    """Send until the server answers, as a client does that reads while it writes."""
    address = urlsplit(api.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{key}: {value}" for key, value in (api.headers | headers).items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        try:
            for piece in pieces:
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        try:
            while not answer.endswith(b"}"):
                received = connection.recv(65_536)
                if not received:
                    break
                answer += received
        except ConnectionResetError:
            pass
        return answer
