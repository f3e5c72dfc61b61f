"""An HTTP client for one account that holds every answer against the OpenAPI document."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec

from flakes.server import openapi
from flakes.server.app import ENDPOINTS
from flakes.wire.errors import CODES

DOCUMENT: dict[str, Any] = msgspec.json.decode(openapi.document(ENDPOINTS))


@dataclass(frozen=True)
class Answer:
    """A response whose body has been read."""

    status: int
    headers: httpx2.Headers
    content: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.content)

    def ok(self, status: int | None = None) -> Any:
        """The body of a success."""
        assert self.status < 300, (self.status, self.content[:2000])
        assert status in (None, self.status), self.status
        return self.json

    def refused(self, code: str) -> dict[str, Any]:
        """The body of a refusal with this code; its form is checked."""
        assert self.status >= 400, (self.status, self.content[:2000])
        body = self.json
        assert body["error"] == code, body
        assert self.status == CODES[code].status
        assert body["message"]
        assert body.get("fix"), "a refusal says what to do"
        return body


class Api:
    """Calls of one account (or, with a host's or sandbox's token, of that peer)."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self.token = token
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def as_(self, token: str | None) -> Api:
        """The same server with another credential."""
        return Api(self.url, token)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 30.0,
        checked: bool = True,
        **query: Any,
    ) -> Answer:
        data = msgspec.json.encode(body) if body is not None else content
        with httpx2.Client(
            base_url=self.url, headers=self.headers | (headers or {}), timeout=timeout_s, verify=False,
        ) as http:
            response = http.request(method, path, content=data, params=query or None)
        answer = Answer(response.status_code, response.headers, response.content)
        if checked:
            check_documented(method, path.partition("?")[0], answer)
        return answer

    def get(self, path: str, **query: Any) -> Answer:
        return self.call("GET", path, **query)

    def put(self, path: str, body: Any = None) -> Answer:
        return self.call("PUT", path, body)

    def post(self, path: str, body: Any = None) -> Answer:
        return self.call("POST", path, body)

    def keyed(self, method: str, path: str, key: str, body: Any = None) -> Answer:
        """A mutation with an Idempotency-Key."""
        return self.call(method, path, body, headers={"Idempotency-Key": key})

    def patch(self, path: str, body: Any) -> Answer:
        return self.call("PATCH", path, body)

    def delete(self, path: str) -> Answer:
        return self.call("DELETE", path)

    def project(self) -> str:
        """A new project; its key."""
        key = name("project")
        self.put(f"/v1/projects/{key}", {"name": key}).ok(201)
        return key

    def run(self, project: str | None = None) -> dict[str, Any]:
        """A new empty run."""
        key = name("run")
        body = {"name": key, "projectKey": project or self.project()}
        return self.put(f"/v1/runs/{key}", body).ok(201)

    def graph(self, *tasks: dict[str, Any], key: str = "", **fields: Any) -> dict[str, Any]:
        """A new run with these tasks admitted: `{run, tasks}`."""
        key = key or name("run")
        project = fields.pop("projectKey", None) or self.project()
        body = {"name": key, "projectKey": project, "tasks": list(tasks), **fields}
        return self.post(f"/v1/runs/{key}/graph", body).ok(201)

    def task(self, task_id: str, **query: Any) -> dict[str, Any]:
        return self.get(f"/v1/tasks/{task_id}", **query).ok()

    def explained(self, task_id: str) -> dict[str, Any]:
        return self.task(task_id, explain=1)["explanation"]

    def sandbox(self) -> tuple[str, str]:
        """A sandbox to be run by hand: id and credential."""
        made = self.post("/v1/sandboxes", {"name": name("sandbox")}).ok(201)
        return made["sandbox"]["sandboxId"], made["rawCredential"]

    def host(self, **fields: Any) -> tuple[str, str]:
        """A host: id and credential."""
        made = self.post("/v1/hosts/setup", {"autoBind": True, **fields}).ok(201)
        return made["host"]["hostId"], made["rawCredential"]

    def activity(self, task_id: str, having: str = "", count: int = 1) -> list[dict[str, Any]]:
        """Events of a task, once `count` of the type `having` are readable: an event stays unreadable while
        any older transaction of the database server is open, those of other tests included."""
        deadline = time.monotonic() + 10
        while True:
            events = self.get(f"/v1/tasks/{task_id}/activity", limit=500).ok()["events"]
            if not having or sum(e["type"] == having for e in events) >= count:
                return events
            assert time.monotonic() < deadline, (having, events)


def name(what: str) -> str:
    """A key or name that nothing else has."""
    return f"{what}-{secrets.token_hex(5)}"


def task(key: str, adapter: str = "nobody", **fields: Any) -> dict[str, Any]:
    """A task definition, as JSON."""
    return {"taskKey": key, "title": key, "adapter": adapter, **fields}


def check_documented(method: str, path: str, answer: Answer) -> None:
    """The document names this route, this status, and the error's code."""
    operation = operation_of(method, path)
    if operation is None:
        assert answer.status in (404, 405, 426), (method, path, answer.status)
        return
    if answer.status == 403 and b"this server is not" in answer.content:
        return  # refused for its Host header, before any route
    told = operation["responses"].get(str(answer.status))
    assert told is not None, f"{method} {path}: {answer.status} is not documented: {answer.content[:500]!r}"
    if answer.status >= 400 and path != "/readyz":
        code = answer.json["error"]
        assert code in told["description"].split(", "), f"{method} {path}: {code} is not documented"


def operation_of(method: str, path: str) -> dict[str, Any] | None:
    """The documented operation behind a concrete path; literal segments win over parameters."""
    for pattern in sorted(DOCUMENT["paths"], key=lambda p: p.count("{")):
        operations = DOCUMENT["paths"][pattern]
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", pattern), path) and method.lower() in operations:
            return operations[method.lower()]
    return None
