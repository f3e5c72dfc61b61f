"""One case for every route: how it is called with success, made from the route table so that none is left out.

A case takes a `World` and makes one request. `World` is an account with one of everything; `fill` puts its
names into a path, for its owner or for somebody else to try.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from api import accounts
from api.browser import Browser
from api.caller import Answer, Api, name, task
from api.following import following
from api.peer import adapter, host, lines, pool, sandbox
from flakes.server.api.operations import PATH
from flakes.server.routing import Endpoint
from flakes.wire.host_stream import Stop
from flakes.wire.operations import PROMOTE
from flakes.wire.sandbox_stream import Drain
from flakes.wire.tasks import Output
from flakes.workspace.capture import capture
from flakes.workspace.commits import commit
from flakes.workspace.git import Git
from flakes.workspace.packs import pack

Case = Callable[["World", str], Answer]
CASES: dict[tuple[str, str], Case] = {}
BLOB = b"bytes of a blob"
BYTES_BASE64 = base64.b64encode(BLOB).decode()
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"


COMMIT, TREE = "c" * 40, "7" * 40
"""What the server takes on trust: it looks into no commit."""


def workspace_of(commit: str = COMMIT, **fields: object) -> dict[str, object]:
    """The body that stores a handle whose one pack is `BLOB`."""
    pack = {"digest": DIGEST, "sizeBytes": len(BLOB)}
    return {"commit": commit, "tree": TREE, "packs": [pack], **fields}


ANNOUNCED: dict[str, object] = {"kind": "file", "digest": DIGEST, "sizeBytes": len(BLOB)}


@dataclass(frozen=True)
class World:
    """What one account has: a run with an ended task and a running one that reads its output."""

    api: Api
    sandbox_api: Api
    """The same server with the credential of the sandbox."""
    names: dict[str, str]

    def fill(self, path: str) -> str:
        return re.sub(r"{(\w+)}", lambda match: self.names[match[1]], path)


def build(api: Api) -> World:
    """Make the world through the API and one sandbox, whose running task outlives its connection."""
    own = adapter()
    who = api.sandbox()
    project = api.project()
    made = api.graph(
        task("first", own),
        task("second", own, dependsOn=["first"], toolGrants=["flakes.tasks.spawn", "flakes.groups", PROMOTE],
             budget={"tokens": 1_000_000},
             liveRounds=True),
        projectKey=project,
    )
    sandbox_api = api.as_(who[1])
    sandbox_api.call("PUT", f"/v1/sandboxes/{who[0]}/blobs/{DIGEST}", content=BLOB).ok(201)
    with sandbox(api, who, adapters=[own]) as peer:
        first = peer.start()
        peer.deliver(lines(first.assignment_id, "one", "two"))
        output = Output(kind="text", size_bytes=len(BLOB), digest=DIGEST)
        peer.finish(first.assignment_id, text="done", outputs={"report": output})
        second = peer.start()
    base = f"/v1/sandboxes/{who[0]}/assignments/{second.assignment_id}/operations"
    of_world = {"title": "of the world", "adapter": "nobody", "taskKey": "of-the-world"}
    sandbox_api.post(f"{base}/group.open", {"groupKey": "of-the-world"}).ok(200)
    sandbox_api.post(f"{base}/task.spawn", {"operationId": "world", "tasks": [of_world, {**of_world, "taskKey": "to-cancel"}]}).ok(200)
    live = of_world | {"liveRounds": True}
    more = [live | {"taskKey": "live"}, live | {"taskKey": "finishing"}]
    sandbox_api.post(f"{base}/task.spawn", {"operationId": "live", "tasks": more}).ok(200)
    rounds = f"/v1/tasks/{second.task_id}/rounds"
    api.post(rounds, {"prompt": "Go on.", "roundKey": "round-1"}).ok(202)
    api.post(rounds, {"prompt": "Write it down.", "roundKey": "written"}).ok(202)
    said = {"kind": "text", "text": "said"}, {"kind": "workspace", "text": '{"digest": "d"}'}
    done = {"roundKey": "written", "outputs": {"report": said[0], "files": said[1]}}
    sandbox_api.post(f"{base}/round.complete", done).ok(200)
    asked = sandbox_api.post(f"{base}/permission.ask", {"operationId": "first", "prompt": "May I?"})
    announced = sandbox_api.post(f"{base}/artifact.create", ANNOUNCED)
    host_id, host_token = api.host()
    with host(api, (host_id, host_token), pool("here", adapter())):
        pass
    api.put(f"/v1/hosts/{host_id}/project-bindings/{project}", {"poolKeys": ["here"]}).ok(201)
    artifact = api.post("/v1/artifacts", artifact_of(BLOB, runId=made["run"]["runId"])).ok(201)
    workspace = api.post("/v1/workspaces", workspace_of()).ok(201)
    key = api.post("/v1/auth/keys", {"name": "of the world"}).ok(201)["key"]
    device = Browser(api.url).post("/v1/auth/device/code", {"clientName": "of the world"}).ok(200)
    return World(api, sandbox_api, {
        "keyId": key["keyId"], "sessionId": Browser.of(api).session_id, "userCode": device["userCode"],
        "projectKey": project, "run": made["run"]["runId"], "taskKey": "first",
        "taskId": first.task_id, "runningTaskId": second.task_id, "outputKey": "report", "hostId": host_id, "sandboxId": who[0],
        "hostCredentialId": host_token.partition(".")[0].rsplit("_", 1)[-1],
        "assignmentId": second.assignment_id, "digest": DIGEST, "version": "0",
        "artifactId": artifact["artifactId"], "announcedId": announced.ok(200)["artifactId"],
        "roundKey": "written", "section": "guide", "name": "go", "document": "observing",
        "workspaceId": workspace["workspaceId"],
        "permissionRequestId": asked.ok(200)["permissionRequestId"],
    })  # fmt: skip


def artifact_of(content: bytes, **fields: object) -> dict[str, object]:
    """The body that makes an artifact with its content."""
    return {"kind": "file", "bytesBase64": base64.b64encode(content).decode(), **fields}


def request(world: World, endpoint: Endpoint, path: str, api: Api) -> Answer:
    """The route called for `path` with a body that it takes, by whoever `api` speaks for."""
    body = BODIES.get((endpoint.method, endpoint.path))
    if endpoint.body is bytes:
        return api.call(endpoint.method, path, content=BLOB)
    if endpoint.body is not None:
        assert body is not None, "a route with a body needs one in BODIES"
        return api.call(endpoint.method, path, body(world))
    return api.call(endpoint.method, path)


def _graph(world: World) -> dict[str, object]:
    return {"name": "g", "projectKey": world.names["projectKey"], "tasks": [task("only")]}


SELECTORS = [{"path": "src", "kind": "prefix"}]
OPERATION_BODIES: dict[str, dict[str, object]] = {
    "workpad.read": {},
    "workpad.save": {"bodyMarkdown": "from the task", "baseVersion": 0},
    "files.reserve": {"selectors": SELECTORS, "reason": "editing"},
    "files.release": {"all": True},
    "files.list": {},
    "files.check": {"selectors": SELECTORS},
    "artifact.create": ANNOUNCED,
    "group.open": {"groupKey": "drafts", "join": "first"},
    "group.close": {"group": "of-the-world"},
    "group.status": {"group": "of-the-world"},
    "group.cancel": {"group": "of-the-world"},
    "task.spawn": {"operationId": "o", "tasks": [{"title": "t", "adapter": "nobody"}]},
    "task.children": {},
    "task.cancel": {"tasks": ["to-cancel"]},
    "task.outputs": {"task": "first"},
    "task.results": {"tasks": ["first"]},
    "task.output": {"task": "first", "outputKey": "report"},
    "task.workpad": {"task": "first"},
    "task.wait": {"operationId": "o", "on": {"kind": "timer", "seconds": 3600}},
    "task.signal": {"operationId": "o", "task": "of-the-world", "name": "go"},
    "run.tasks": {},
    "journal.read": {},
    "journal.append": {"at": 0, "entries": ['{"k": "module"}']},
    "budget.read": {},
    "budget.reserve": {"tokens": 10},
    "round.send": {"operationId": "o", "task": "live", "prompt": "Go on."},
    "round.finish": {"task": "finishing"},
    "round.next": {},
    "round.complete": {"roundKey": "round-1"},
    "round.read": {"roundKey": "round-1"},
    "round.list": {},
    "permission.ask": {"operationId": "second", "prompt": "May I really?"},
    "workspace.selected": {},
    "workspace.changing": {"paths": ["src/a.py"]},
}
"""A body that each operation takes, for the world's running task."""


RESPOND = "/v1/tasks/{taskId}/permissions/{permissionRequestId}/respond"

BODIES: dict[tuple[str, str], Callable[[World], dict[str, object]]] = {
    ("PUT", "/v1/projects/{projectKey}"): lambda world: {"name": "p"},
    ("PATCH", "/v1/projects/{projectKey}"): lambda world: {"name": "another name"},
    ("PUT", "/v1/runs/{run}"): lambda world: {"name": "r", "projectKey": world.names["projectKey"]},
    ("POST", "/v1/runs/{run}/graph"): _graph,
    ("POST", "/v1/runs/{run}/tasks/admit"): lambda world: {"all": True},
    ("POST", "/v1/runs/{run}/close"): lambda world: {},
    ("POST", "/v1/runs/{run}/cancel"): lambda world: {"reason": "enough"},
    ("POST", "/v1/runs/{run}/retry"): lambda world: {},
    ("PUT", "/v1/runs/{run}/tasks/{taskKey}"): lambda world: {"title": "t", "adapter": "nobody"},
    ("POST", "/v1/tasks/{taskId}/cancel"): lambda world: {},
    ("POST", "/v1/tasks/{taskId}/retry"): lambda world: {},
    ("POST", "/v1/hosts/setup"): lambda world: {"hostName": "h"},
    ("POST", "/v1/hosts"): lambda world: {"name": "h"},
    ("POST", "/v1/hosts/prune"): lambda world: {"dryRun": True},
    ("PATCH", "/v1/hosts/{hostId}"): lambda world: {"name": "another name"},
    ("POST", "/v1/hosts/{hostId}/disable"): lambda world: {},
    ("POST", "/v1/hosts/{hostId}/abandon"): lambda world: {"confirm": world.names["hostId"]},
    ("POST", "/v1/hosts/{hostId}/credentials/rotate"): lambda world: {},
    ("POST", "/v1/hosts/{hostId}/credentials/{hostCredentialId}/revoke"): lambda world: {},
    ("PUT", "/v1/hosts/{hostId}/project-workspace-root"): lambda world: {"path": "/srv/projects"},
    ("PUT", "/v1/hosts/{hostId}/project-bindings/{projectKey}"): lambda world: {"poolKeys": ["here"]},
    ("POST", "/v1/sandboxes/{sandboxId}/drain"): lambda world: {},
    ("POST", "/v1/sandboxes/{sandboxId}/stop"): lambda world: {},
    ("POST", "/v1/sandboxes/{sandboxId}/abandon"): lambda world: {"confirm": world.names["sandboxId"]},
    ("POST", "/v1/artifacts"): lambda world: {"kind": "file"},
    ("POST", "/v1/sandboxes"): lambda world: {"name": "s"},
    ("POST", "/v1/auth/browser-link"): lambda world: {"code": "none.at-all"},
    ("PATCH", "/v1/me"): lambda world: {"name": "account"},
    ("POST", "/v1/auth/change-password"): lambda world: {
        "currentPassword": "of nobody", "newPassword": "correct horse battery",
    },
    ("POST", "/v1/auth/keys"): lambda world: {"name": "k", "scope": "read"},
    ("POST", "/v1/auth/device/{userCode}"): lambda world: {"decision": "denied"},
    ("POST", "/v1/tasks/{taskId}/messages"): lambda world: {"mode": "steer", "message": "left"},
    ("POST", "/v1/tasks/{taskId}/signals/{name}"): lambda world: {"payload": {"a": 1}},
    ("POST", "/v1/tasks/{taskId}/rounds"): lambda world: {"prompt": "left"},
    ("POST", "/v1/tasks/{taskId}/rounds/finish"): lambda world: {},
    ("POST", RESPOND): lambda world: {"decision": "approved"},
    ("POST", PATH + "budget.extend"): lambda world: {
        "permissionRequestId": world.names["permissionRequestId"]
    },
    ("POST", PATH + "permission.status"): lambda world: {
        "permissionRequestId": world.names["permissionRequestId"]
    },
    ("POST", PATH + "workspace.promote"): lambda world: {"workspaceId": world.names["workspaceId"]},
    ("POST", PATH + "artifact.append"): lambda world: {
        "artifactId": world.names["announcedId"], "offset": 0, "bytesBase64": BYTES_BASE64
    },
    ("POST", PATH + "artifact.read"): lambda world: {"artifactId": world.names["artifactId"]},
    ("PUT", "/v1/tasks/{taskId}/workpad"): lambda world: {"bodyMarkdown": "b", "baseVersion": 0},
    ("POST", "/v1/workspaces"): lambda world: workspace_of(),
    ("POST", "/v1/runs/{run}/promotions"): lambda world: {"workspaceId": world.names["workspaceId"]},
    ("POST", "/v1/sandboxes/{sandboxId}/assignments/{assignmentId}/workspaces"): lambda world: workspace_of(kind="candidate"),
    ("POST", "/v1/markdown"): lambda world: {"markdown": "*hello*"},
    ("POST", "/v1/workflows/check"): lambda world: {"text": "## a: A\nrun: true\n\nGo.", "adapter": "command"},
    **{("POST", PATH + operation): lambda world, body=body: body for operation, body in OPERATION_BODIES.items()},
}


def case(method: str, path: str) -> Callable[[Case], Case]:
    def register(function: Case) -> Case:
        assert (method, path) not in CASES
        CASES[method, path] = function
        return function

    return register


def _reads(path: str, holds: str) -> None:
    """A GET that answers with this field, for the thing the world has."""

    def read(world: World, path: str) -> Answer:
        answer = world.api.get(world.fill(path))
        assert holds in answer.ok(200)
        return answer

    CASES["GET", path] = read


for _path, _holds in {
    "/livez": "status", "/readyz": "status", "/openapi.json": "paths", "/v1/me": "userId",
    "/v1/auth/options": "signUp", "/v1/auth/keys": "keys", "/v1/auth/sessions": "sessions",
    "/v1/auth/device/{userCode}": "clientName",
    "/v1/projects": "projects", "/v1/projects/{projectKey}": "projectId",
    "/v1/runs": "runs", "/v1/runs/{run}": "runId", "/v1/runs/{run}/tasks": "tasks",
    "/v1/runs/{run}/tasks/{taskKey}": "definition", "/v1/tasks/{taskId}": "attempts",
    "/v1/tasks/{taskId}/result": "outputs", "/v1/tasks/{taskId}/logs": "logs",
    "/v1/tasks/{taskId}/activity": "events", "/v1/hosts": "hosts", "/v1/hosts/{hostId}": "autoBind",
    "/v1/hosts/{hostId}/pools": "hostPools", "/v1/sandboxes": "sandboxes",
    "/v1/hosts/{hostId}/credentials": "credentials",
    "/v1/hosts/{hostId}/credentials/{hostCredentialId}": "tokenPrefix",
    "/v1/hosts/{hostId}/project-bindings": "bindings",
    "/v1/tasks/{taskId}/messages": "messages", "/v1/tasks/{taskId}/permissions": "permissions",
    "/v1/permissions": "permissions", "/v1/permissions/{permissionRequestId}": "prompt",
    "/v1/sandboxes/{sandboxId}": "liveness", "/v1/tasks/{taskId}/workpad": "version",
    "/v1/tasks/{taskId}/workpad/versions": "versions",
    "/v1/tasks/{taskId}/workpad/versions/{version}": "bodyMarkdown",
    "/v1/runs/{run}/file-reservations": "reservations",
    "/v1/artifacts": "artifacts",
    "/v1/artifacts/{artifactId}": "locations", "/v1/artifacts/{artifactId}/upload": "offset",
    "/v1/runs/{run}/artifacts": "artifacts", "/v1/runs/{run}/outputs": "outputs",
    "/v1/runs/{run}/metrics": "parallelism", "/v1/runs/{run}/explanations": "tasks",
    "/v1/tasks/{taskId}/transcript": "entries", "/v1/projects/{projectKey}/metrics": "tokens",
    "/v1/runs/{run}/attempts": "attempts", "/v1/runs/{run}/layout": "nodes", "/v1/docs": "documents",
    "/v1/docs/{section}/{document}": "html", "/v1/tasks/{taskId}/children": "children",
    "/v1/tasks/{taskId}/groups": "groups", "/v1/tasks/{taskId}/waits": "waits", "/v1/tasks/{taskId}/rounds": "rounds",
    "/v1/workspaces/{workspaceId}": "packs", "/v1/runs/{run}/workspaces": "refs",
}.items():  # fmt: skip
    _reads(_path, _holds)


@case("GET", "/v1/tasks/{taskId}/outputs/{outputKey}")
def _output(world: World, path: str) -> Answer:
    answer = world.api.get(world.fill(path))
    assert (answer.status, answer.content) == (200, BLOB)
    assert answer.headers["etag"] == f'"{DIGEST}"'
    return answer


@case("POST", "/v1/artifacts")
def _create_artifact(world: World, path: str) -> Answer:
    answer = world.api.post(path, artifact_of(BLOB, name="b.bin"))
    made = answer.ok(201)
    assert (made["state"], made["digest"], made["sizeBytes"]) == ("ready", DIGEST, len(BLOB))
    assert made["locations"][0]["available"] is True
    return answer


@case("PUT", "/v1/artifacts/{artifactId}/content")
def _put_content(world: World, path: str) -> Answer:
    made = world.api.post("/v1/artifacts", {"kind": "file"}).ok(201)
    assert (made["state"], made["locations"]) == ("pending", [])
    answer = world.api.call("PUT", path.format(**made), content=BLOB)
    assert (answer.ok(200)["state"], answer.json["digest"]) == ("ready", DIGEST)
    return answer


@case("GET", "/v1/artifacts/{artifactId}/fetch")
def _fetch(world: World, path: str) -> Answer:
    answer = world.api.get(world.fill(path))
    assert (answer.status, answer.content) == (200, BLOB)
    return answer


@case("DELETE", "/v1/artifacts/{artifactId}")
def _delete_artifact(world: World, path: str) -> Answer:
    made = world.api.post("/v1/artifacts", artifact_of(BLOB)).ok(201)
    answer = world.api.delete(path.format(**made))
    assert answer.ok(200) == {"artifactId": made["artifactId"], "status": "deleted"}
    world.api.get(path.format(**made)).refused("not_found")
    return answer


@case("PUT", "/v1/projects/{projectKey}")
def _put_project(world: World, path: str) -> Answer:
    return world.api.put(f"/v1/projects/{name('made')}", {"name": "Made"})


@case("PATCH", "/v1/projects/{projectKey}")
def _patch_project(world: World, path: str) -> Answer:
    key = world.api.project()
    answer = world.api.patch(f"/v1/projects/{key}", {"name": "Renamed", "metadata": {"a": 1}})
    assert (answer.ok(200)["name"], answer.json["metadata"]) == ("Renamed", {"a": 1})
    return answer


@case("POST", "/v1/projects/{projectKey}/archive")
def _archive(world: World, path: str) -> Answer:
    answer = world.api.post(f"/v1/projects/{world.api.project()}/archive")
    assert answer.ok(200)["status"] == "archived"
    return answer


@case("PUT", "/v1/runs/{run}")
def _put_run(world: World, path: str) -> Answer:
    body = {"name": "r", "projectKey": world.names["projectKey"]}
    answer = world.api.put(f"/v1/runs/{name('run')}", body)
    assert answer.ok(201)["state"] == "CREATED"
    return answer


@case("POST", "/v1/runs/{run}/graph")
def _post_graph(world: World, path: str) -> Answer:
    answer = world.api.post(f"/v1/runs/{name('run')}/graph", _graph(world))
    assert answer.ok(201)["tasks"][0]["status"] == "QUEUED"
    return answer


@case("PUT", "/v1/runs/{run}/tasks/{taskKey}")
def _save(world: World, path: str) -> Answer:
    run = world.api.run()["runKey"]
    answer = world.api.put(f"/v1/runs/{run}/tasks/saved", task("saved"))
    assert answer.ok(201)["status"] == "SAVED"
    return answer


@case("POST", "/v1/runs/{run}/tasks/admit")
def _admit(world: World, path: str) -> Answer:
    run = world.api.run()["runKey"]
    world.api.put(f"/v1/runs/{run}/tasks/saved", task("saved")).ok(201)
    answer = world.api.post(f"/v1/runs/{run}/tasks/admit", {"taskKeys": ["saved"]})
    assert [t["status"] for t in answer.ok(200)["tasks"]] == ["QUEUED"]
    return answer


@case("POST", "/v1/runs/{run}/close")
def _close(world: World, path: str) -> Answer:
    answer = world.api.post(f"/v1/runs/{world.api.run()['runKey']}/close", {"reason": "done"})
    assert answer.ok(200)["closed"] is True
    return answer


@case("POST", "/v1/runs/{run}/cancel")
def _cancel_run(world: World, path: str) -> Answer:
    made = world.api.graph(task("only"))
    answer = world.api.post(f"/v1/runs/{made['run']['runKey']}/cancel", {"reason": "enough"})
    assert answer.ok(202)["state"] == "CANCELLED"
    return answer


@case("POST", "/v1/runs/{run}/retry")
def _retry_run(world: World, path: str) -> Answer:
    run = _cancelled(world)["runId"]
    answer = world.api.post(f"/v1/runs/{run}/retry")
    assert answer.ok(200)["state"] == "QUEUED"
    return answer


@case("DELETE", "/v1/runs/{run}")
def _delete(world: World, path: str) -> Answer:
    run = _cancelled(world)["runId"]
    answer = world.api.delete(f"/v1/runs/{run}")
    assert answer.ok(200) == {"status": "deleted", "runId": run}
    world.api.get(f"/v1/runs/{run}").refused("not_found")
    return answer


@case("POST", "/v1/tasks/{taskId}/cancel")
def _cancel(world: World, path: str) -> Answer:
    made = world.api.graph(task("only"))
    answer = world.api.post(f"/v1/tasks/{made['tasks'][0]['taskId']}/cancel", {"reason": "no"})
    assert answer.ok(202)["status"] == "CANCELLED"
    return answer


@case("POST", "/v1/tasks/{taskId}/retry")
def _retry(world: World, path: str) -> Answer:
    answer = world.api.post(f"/v1/tasks/{_cancelled(world)['taskId']}/retry")
    assert answer.ok(200)["status"] == "QUEUED"
    return answer


@case("GET", "/v1/runs/{run}/history.jsonl")
def _history(world: World, path: str) -> Answer:
    answer = world.api.get(world.fill(path))
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert answer.content.startswith(b'{"version":1,"type":"run"')
    return answer


@case("GET", "/v1/events")
def _events(world: World, path: str) -> Answer:
    with following(world.api, runId=world.names["run"]) as stream:
        assert stream.media_type.startswith("text/event-stream")
        assert stream.next().event == "run.created"
    return world.api.get("/livez")


@case("POST", "/v1/hosts/setup")
def _setup(world: World, path: str) -> Answer:
    answer = world.api.post("/v1/hosts/setup", {"hostName": "mine", "metadata": {"rack": 3}})
    made = answer.ok(201)
    assert (made["host"]["name"], made["host"]["status"]) == ("mine", "created")
    assert made["rawCredential"].startswith(made["credential"]["tokenPrefix"])
    assert "rawCredential" not in world.api.get(f"/v1/hosts/{made['host']['hostId']}").ok()
    return answer


@case("POST", "/v1/hosts")
def _create_host(world: World, path: str) -> Answer:
    answer = world.api.post(path, {"name": "bare", "autoBind": True})
    made = answer.ok(201)
    assert (made["name"], made["status"], made["autoBind"]) == ("bare", "created", True)
    assert world.api.get(f"/v1/hosts/{made['hostId']}/credentials").ok()["credentials"] == []
    return answer


@case("PATCH", "/v1/hosts/{hostId}")
def _patch_host(world: World, path: str) -> Answer:
    host_id, _ = world.api.host()
    answer = world.api.patch(path.format(hostId=host_id), {"name": "n", "metadata": {"rack": 1}})
    assert (answer.ok(200)["name"], answer.json["metadata"]) == ("n", {"rack": 1})
    return answer


@case("DELETE", "/v1/hosts/{hostId}")
def _delete_host(world: World, path: str) -> Answer:
    made = world.api.post("/v1/hosts", {}).ok(201)
    answer = world.api.delete(path.format(**made))
    assert answer.ok(200) == {"status": "deleted", "hostId": made["hostId"], "blockers": []}
    world.api.get(path.format(**made)).refused("not_found")
    return answer


@case("POST", "/v1/hosts/{hostId}/disable")
def _disable_host(world: World, path: str) -> Answer:
    answer = world.api.post(path.format(hostId=world.api.host()[0]), {"reason": "broken fan"})
    assert (answer.ok(200)["host"]["status"], answer.json["sandboxIds"]) == ("disabled", [])
    return answer


@case("POST", "/v1/hosts/{hostId}/enable")
def _enable_host(world: World, path: str) -> Answer:
    host_id, _ = world.api.host()
    world.api.post(f"/v1/hosts/{host_id}/disable").ok(200)
    answer = world.api.post(path.format(hostId=host_id))
    assert answer.ok(200)["status"] == "created"
    return answer


@case("POST", "/v1/hosts/{hostId}/abandon")
def _abandon_host(world: World, path: str) -> Answer:
    host_id, _ = world.api.host()
    answer = world.api.post(path.format(hostId=host_id), {"confirm": host_id})
    assert answer.ok(200)["host"]["status"] == "disabled"
    return answer


@case("POST", "/v1/hosts/prune")
def _prune(world: World, path: str) -> Answer:
    answer = world.api.post(path, {"dryRun": True, "offlineS": 10**9})
    assert answer.ok(200) == {"dryRun": True, "hosts": [], "kept": []}
    return answer


@case("POST", "/v1/hosts/{hostId}/credentials/rotate")
def _rotate(world: World, path: str) -> Answer:
    host_id, raw = world.api.host()
    answer = world.api.post(path.format(hostId=host_id), {"graceS": 0})
    made = answer.ok(200)
    assert made["rawCredential"] != raw
    assert made["rawCredential"].startswith(made["credential"]["tokenPrefix"])
    assert [c["status"] for c in made["replaced"]] == ["revoked"]
    return answer


@case("POST", "/v1/hosts/{hostId}/credentials/{hostCredentialId}/revoke")
def _revoke(world: World, path: str) -> Answer:
    host_id, raw = world.api.host()
    names = {"hostId": host_id, "hostCredentialId": raw.partition(".")[0].rsplit("_", 1)[-1]}
    answer = world.api.post(path.format(**names), {"reason": "lost laptop"})
    assert (answer.ok(200)["status"], answer.json["reason"]) == ("revoked", "lost laptop")
    return answer


@case("PUT", "/v1/hosts/{hostId}/project-workspace-root")
def _put_root(world: World, path: str) -> Answer:
    host_id, _ = world.api.host()
    answer = world.api.put(path.format(hostId=host_id), {"path": "/srv/projects"})
    assert answer.ok(200)["projectWorkspaceRoot"] == "/srv/projects"
    return answer


@case("PUT", "/v1/hosts/{hostId}/project-bindings/{projectKey}")
def _bind(world: World, path: str) -> Answer:
    project = world.api.project()
    answer = world.api.put(
        path.format(hostId=world.names["hostId"], projectKey=project), {"poolKeys": ["here"]}
    )
    assert (answer.ok(201)["projectKey"], answer.json["poolKeys"]) == (project, ["here"])
    return answer


@case("DELETE", "/v1/hosts/{hostId}/project-bindings/{projectKey}")
def _unbind(world: World, path: str) -> Answer:
    where = path.format(hostId=world.names["hostId"], projectKey=world.api.project())
    world.api.put(where, {"poolKeys": ["here"]}).ok(201)
    answer = world.api.delete(where)
    assert answer.ok(200)["status"] == "deleted"
    world.api.delete(where).refused("not_found")
    return answer


@case("POST", "/v1/sandboxes/{sandboxId}/drain")
def _drain(world: World, path: str) -> Answer:
    with sandbox(world.api, adapters=[adapter()]) as peer:
        answer = world.api.post(path.format(sandboxId=peer.sandbox_id), {"reason": "enough"})
        assert answer.ok(200)["sandbox"]["status"] == "draining"
        assert peer.expect(Drain).reason == "enough"
    return answer


@case("POST", "/v1/sandboxes/{sandboxId}/stop")
def _stop(world: World, path: str) -> Answer:
    who, own = world.api.host(), adapter()
    with host(world.api, who, pool("a", own)) as peer:
        world.api.graph(task("only", own))
        launch = peer.launched()
        answer = world.api.post(path.format(sandboxId=launch.sandbox_id))
        assert answer.ok(200)["sandbox"]["status"] == "stopping"
        assert peer.expect(Stop).instance_id == launch.instance_id
    return answer


@case("DELETE", "/v1/sandboxes/{sandboxId}")
def _delete_sandbox(world: World, path: str) -> Answer:
    sandbox_id, _ = world.api.sandbox()
    answer = world.api.delete(path.format(sandboxId=sandbox_id))
    assert (answer.ok(200)["status"], answer.json["clearedAssignments"]) == ("deleted", 0)
    world.api.get(path.format(sandboxId=sandbox_id)).refused("not_found")
    return answer


@case("POST", "/v1/sandboxes/{sandboxId}/abandon")
def _abandon(world: World, path: str) -> Answer:
    sandbox_id, _ = world.api.sandbox()
    answer = world.api.post(path.format(sandboxId=sandbox_id), {"confirm": sandbox_id})
    assert answer.ok(200)["status"] == "abandoned"
    return answer


@case("POST", "/v1/sandboxes")
def _register(world: World, path: str) -> Answer:
    answer = world.api.post("/v1/sandboxes", {"name": "by hand"})
    assert answer.ok(201)["sandbox"]["liveness"] == "offline"
    return answer


@case("POST", "/v1/auth/browser-links")
def _make_link(world: World, path: str) -> Answer:
    answer = world.api.post(path)
    assert {"code", "expiresAt"} == answer.ok(201).keys()
    return answer


@case("POST", "/v1/auth/browser-link")
def _take_link(world: World, path: str) -> Answer:
    answer = Browser(world.api.url).take_link(world.api)
    assert answer.ok(200)["userId"] == world.api.get("/v1/me").ok()["userId"]
    return answer


@case("POST", "/v1/auth/sign-out")
def _sign_out(world: World, path: str) -> Answer:
    browser = Browser.of(world.api)
    answer = browser.post(path)
    assert answer.ok(200)["signedOut"] is True
    browser.get("/v1/me").refused("unauthorized")
    return answer


@case("PATCH", "/v1/me")
def _patch_me(world: World, path: str) -> Answer:
    answer = world.api.patch(path, {"name": "account"})
    assert answer.ok(200)["name"] == "account"
    return answer


@case("POST", "/v1/auth/sign-up")
def _sign_up(world: World, path: str) -> Answer:
    body = {"email": accounts.new_email(), "password": accounts.new_password()}
    answer = Browser(world.api.url).post(path, body)
    assert {"verification", "expiresAt"} == answer.ok(202).keys()
    return answer


@case("POST", "/v1/auth/verify")
def _verify(world: World, path: str) -> Answer:
    return accounts.sign_up(world.api.url).browser.get("/v1/me")


@case("POST", "/v1/auth/sign-in")
def _sign_in(world: World, path: str) -> Answer:
    person = accounts.sign_up(world.api.url)
    answer = Browser(world.api.url).post(path, {"email": person.email, "password": person.password})
    assert answer.ok(200)["email"] == person.email
    return answer


@case("POST", "/v1/auth/forgot-password")
def _forgot(world: World, path: str) -> Answer:
    answer = Browser(world.api.url).post(path, {"email": accounts.new_email()})
    assert {"verification", "expiresAt"} == answer.ok(202).keys()
    return answer


@case("POST", "/v1/auth/reset-password")
def _reset(world: World, path: str) -> Answer:
    person = accounts.sign_up(world.api.url)
    sent = person.browser.post("/v1/auth/forgot-password", {"email": person.email}).ok(202)
    code = accounts.digits(world.api.url, person.email, 2)
    body = {"verification": sent["verification"], "code": code, "newPassword": accounts.new_password()}
    answer = person.browser.post(path, body)
    assert answer.ok(200)["email"] == person.email
    return answer


@case("POST", "/v1/auth/change-password")
def _change_password(world: World, path: str) -> Answer:
    person = accounts.sign_up(world.api.url)
    body = {"currentPassword": person.password, "newPassword": accounts.new_password()}
    answer = person.browser.post(path, body)
    assert answer.ok(200) == {"endedSessions": 0, "keys": []}
    return answer


@case("DELETE", "/v1/auth/sessions/{sessionId}")
def _end_session(world: World, path: str) -> Answer:
    browser = Browser.of(world.api)
    answer = world.api.delete(path.format(sessionId=browser.session_id))
    assert answer.ok(200) == {"sessionId": browser.session_id, "signedOut": True}
    browser.get("/v1/me").refused("unauthorized")
    return answer


@case("POST", "/v1/auth/keys")
def _create_key(world: World, path: str) -> Answer:
    answer = world.api.post(path, {"name": "ci", "scope": "read", "expiresInDays": 7})
    made = answer.ok(201)
    assert world.api.as_(made["rawKey"]).get("/v1/me").ok()["scope"] == "read"
    return answer


@case("DELETE", "/v1/auth/keys/{keyId}")
def _revoke_key(world: World, path: str) -> Answer:
    made = world.api.post("/v1/auth/keys", {"name": "short-lived"}).ok(201)
    answer = world.api.delete(path.format(**made["key"]))
    assert answer.ok(200)["keyId"] == made["key"]["keyId"]
    world.api.as_(made["rawKey"]).get("/v1/me").refused("unauthorized")
    return answer


@case("POST", "/v1/auth/device/code")
def _device_code(world: World, path: str) -> Answer:
    answer = Browser(world.api.url).post(path, {})
    assert answer.ok(200)["verificationUri"] == f"{world.api.url}/device"
    return answer


@case("POST", "/v1/auth/device/{userCode}")
def _decide(world: World, path: str) -> Answer:
    asked = Browser(world.api.url).post("/v1/auth/device/code", {}).ok(200)
    answer = world.api.post(path.format(**asked), {"decision": "approved"})
    assert answer.ok(200)["status"] == "approved"
    return answer


@case("POST", "/v1/auth/device/token")
def _device_token(world: World, path: str) -> Answer:
    device = Browser(world.api.url)
    asked = device.post("/v1/auth/device/code", {}).ok(200)
    world.api.post(f"/v1/auth/device/{asked['userCode']}", {"decision": "approved"}).ok(200)
    answer = device.post(path, {"deviceCode": asked["deviceCode"]})
    signed_in = world.api.as_(answer.ok(200)["accessToken"])
    assert signed_in.get("/v1/me").ok()["sessionKind"] == "cli"
    return answer


@case("GET", "/v1/auth/oidc/start")
@case("GET", "/v1/auth/oidc/callback")
def _no_provider(world: World, path: str) -> Answer:
    """This server has none; tests/api/test_oidc.py has one that does."""
    Browser(world.api.url).get(path).refused("not_found")
    return world.api.get("/livez")


@case("GET", "/v1/sandboxes/{sandboxId}/assignments/{assignmentId}")
def _assignment(world: World, path: str) -> Answer:
    answer = world.sandbox_api.get(world.fill(path))
    offered = answer.ok(200)
    assert (offered["taskKey"], offered["definition"]["title"]) == ("second", "second")
    assert offered["inputs"][0]["output"]["digest"] == DIGEST
    return answer


@case("PUT", "/v1/sandboxes/{sandboxId}/blobs/{digest}")
def _put_blob(world: World, path: str) -> Answer:
    answer = world.sandbox_api.call("PUT", world.fill(path), content=BLOB)
    assert answer.ok(201) == {"digest": DIGEST, "sizeBytes": len(BLOB)}
    return answer


@case("GET", "/v1/sandboxes/{sandboxId}/blobs/{digest}")
def _get_blob(world: World, path: str) -> Answer:
    answer = world.sandbox_api.get(world.fill(path))
    assert (answer.status, answer.content) == (200, BLOB)
    return answer


@case("PUT", "/v1/tasks/{taskId}/workpad")
def _save_workpad(world: World, path: str) -> Answer:
    task_id = world.api.graph(task("only"))["tasks"][0]["taskId"]
    answer = world.api.put(f"/v1/tasks/{task_id}/workpad", {"bodyMarkdown": "# A", "baseVersion": 0})
    assert (answer.ok(200)["version"], answer.json["author"]["kind"]) == (1, "user")
    return answer


@case("POST", "/v1/tasks/{taskId}/messages")
def _message(world: World, path: str) -> Answer:
    own = adapter()
    made = world.api.graph(task("only", own))
    with sandbox(world.api, adapters=[own]) as peer:
        peer.start()
        body = {"mode": "follow_up", "message": " hello "}
        answer = world.api.post(f"/v1/tasks/{made['tasks'][0]['taskId']}/messages", body)
    assert (answer.ok(202)["message"], answer.json["state"]) == ("hello", "queued")
    return answer


@case("POST", RESPOND)
def _respond(world: World, path: str) -> Answer:
    base = world.fill("/v1/sandboxes/{sandboxId}/assignments/{assignmentId}/operations")
    ask = {"operationId": name("op"), "prompt": "And this?"}
    asked = world.sandbox_api.post(f"{base}/permission.ask", ask).ok(200)
    body = {"decision": "denied", "reason": "no"}
    asked_at = f"/v1/tasks/{asked['taskId']}/permissions/{asked['permissionRequestId']}"
    answer = world.api.post(f"{asked_at}/respond", body)
    assert (answer.ok(200)["status"], answer.json["decision"]) == ("denied", "denied")
    return answer


@case("POST", PATH + "budget.extend")
def _budget_extend(world: World, path: str) -> Answer:
    task_id = world.names["runningTaskId"]
    details = {"budget": "tokens", "scope": "tree", "scopeId": task_id, "spent": 1_000_000, "limit": 1_000_000}
    question = {"operationId": name("more"), "prompt": "More?", "action": "extend", "details": details}
    asked = world.sandbox_api.post(world.fill(PATH + "permission.ask"), question).ok(200)
    permission_id = asked["permissionRequestId"]
    world.api.post(f"/v1/tasks/{task_id}/permissions/{permission_id}/respond", {"decision": "approved"}).ok(200)
    answer = world.sandbox_api.post(world.fill(path), {"permissionRequestId": permission_id})
    assert answer.ok(200)["limit"] == 2_000_000
    return answer


@case("POST", PATH + "permission.status")
def _permission_status(world: World, path: str) -> Answer:
    body = BODIES["POST", PATH + "permission.status"](world)
    answer = world.sandbox_api.post(world.fill(path), body)
    assert answer.ok(200)["prompt"] == "May I?"
    return answer


@case("POST", PATH + "workspace.promote")
def _promote_own(world: World, path: str) -> Answer:
    body = BODIES["POST", PATH + "workspace.promote"](world)
    answer = world.sandbox_api.post(world.fill(path), body)
    assert answer.ok(200)["promotion"]["assignmentId"] == world.names["assignmentId"]
    return answer


@case("POST", PATH + "artifact.append")
def _append(world: World, path: str) -> Answer:
    body = BODIES["POST", PATH + "artifact.append"](world)
    answer = world.sandbox_api.post(world.fill(path), body)
    assert answer.ok(200)["state"] == "ready"
    return answer


@case("POST", PATH + "artifact.read")
def _read_piece(world: World, path: str) -> Answer:
    body = BODIES["POST", PATH + "artifact.read"](world)
    answer = world.sandbox_api.post(world.fill(path), body)
    assert answer.ok(200)["bytesBase64"] == BYTES_BASE64
    return answer


def _operation(operation: str) -> None:
    def perform(world: World, path: str) -> Answer:
        answer = world.sandbox_api.post(world.fill(path), OPERATION_BODIES[operation])
        answer.ok(200)
        return answer

    CASES["POST", PATH + operation] = perform


for _name in OPERATION_BODIES:
    _operation(_name)


def _cancelled(world: World) -> dict[str, str]:
    """A cancelled run and its one task."""
    made = world.api.graph(task("only"))
    world.api.post(f"/v1/runs/{made['run']['runId']}/cancel").ok(202)
    return {"runId": made["run"]["runId"], "taskId": made["tasks"][0]["taskId"]}


@case("POST", "/v1/markdown")
def _markdown(world: World, path: str) -> Answer:
    answer = world.api.post(path, {"markdown": "**b** <script>alert(1)</script>"})
    assert answer.ok(200)["html"].startswith("<p><strong>b</strong> &lt;script&gt;")
    return answer


@case("POST", "/v1/workflows/check")
def _check_workflow(world: World, path: str) -> Answer:
    wrong = world.api.post(path, {"text": "## a: A\ndepends_on: b\n\nGo.", "adapter": "command"})
    assert wrong.ok(200)["ok"] is False
    assert wrong.json["problems"][0]["line"] in (1, 2)
    answer = world.api.post(path, {"text": "## a: A\nrun: true\n\nGo.", "adapter": "command"})
    assert (answer.ok(200)["ok"], len(answer.json["layout"]["nodes"])) == (True, 1)
    return answer


@case("POST", "/v1/tasks/{taskId}/signals/{name}")
def _signal(world: World, path: str) -> Answer:
    task_id = world.names["runningTaskId"]
    answer = world.api.post(f"/v1/tasks/{task_id}/signals/go", {"payload": [1]})
    assert (answer.ok(202)["state"], answer.json["payload"]) == ("queued", [1])
    return answer


@case("POST", "/v1/workspaces")
def _store_workspace(world: World, path: str) -> Answer:
    answer = world.api.post(path, workspace_of("d" * 40))
    assert answer.json["packs"] == [{"digest": DIGEST, "sizeBytes": len(BLOB)}]
    return answer


@case("GET", "/v1/workspaces/{workspaceId}/diff")
def _diff(world: World, path: str) -> Answer:
    made = diffed(world.api, {"a": b"one\n"}, {"a": b"two\n"})
    answer = world.api.get(path.format(workspaceId=made[1]))
    assert answer.ok(200)["files"][0]["patch"].endswith("-one\n+two\n")
    return answer


def diffed(api: Api, *states: dict[str, bytes]) -> list[str]:
    """Handles of real commits, each made from the one before it."""
    made: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        git = Git.at(Path(scratch) / "objects.git")
        packs: list[dict[str, object]] = []
        parents: list[str] = []
        for number, files in enumerate(states):
            place = Path(scratch) / f"files-{number}"
            for relative, content in files.items():
                (place / relative).parent.mkdir(parents=True, exist_ok=True)
                (place / relative).write_bytes(content)
            tree = capture(git.over(place, Path(scratch) / "index"))
            own = commit(git, tree, "Files", parents=parents)
            pack(git, own, without=parents, to=Path(scratch) / "pack")
            content = (Path(scratch) / "pack").read_bytes()
            artifact = api.post("/v1/artifacts", artifact_of(content) | {"kind": "workspace-pack"}).ok(201)
            packs.append({"digest": artifact["digest"], "sizeBytes": len(content)})
            fields = {"baseWorkspaceId": made[-1]} if made else {}
            body = {"commit": own, "tree": tree, "packs": packs, **fields}
            made.append(api.post("/v1/workspaces", body).ok()["workspaceId"])
            parents = [own]
    return made


@case("GET", "/v1/workspaces/{workspaceId}/packs/{digest}")
def _pack(world: World, path: str) -> Answer:
    answer = world.api.get(world.fill(path))
    assert (answer.status, answer.content) == (200, BLOB)
    part = world.api.call("GET", world.fill(path), headers={"Range": "bytes=3-"})
    assert (part.status, part.content) == (206, BLOB[3:])
    return answer


@case("POST", "/v1/runs/{run}/promotions")
def _promote(world: World, path: str) -> Answer:
    run = world.api.run()["runKey"]
    body = {"workspaceId": world.names["workspaceId"]}
    answer = world.api.post(f"/v1/runs/{run}/promotions", body)
    assert answer.ok(200)["ref"]["version"] == 1
    return answer


@case("POST", "/v1/sandboxes/{sandboxId}/assignments/{assignmentId}/workspaces")
def _store_candidate(world: World, path: str) -> Answer:
    body = workspace_of("e" * 40, kind="candidate", changeCount=1)
    answer = world.sandbox_api.post(world.fill(path), body)
    assert answer.json["assignmentId"] == world.names["assignmentId"]
    assert world.sandbox_api.post(world.fill(path), body).ok(200) == answer.json
    return answer


@case("GET", "/v1/sandboxes/{sandboxId}/workspaces/{workspaceId}")
def _workspace_of_attempt(world: World, path: str) -> Answer:
    made = _stored_by_attempt(world)
    answer = world.sandbox_api.get(path.format(**world.names | made))
    assert answer.ok(200)["workspaceId"] == made["workspaceId"]
    return answer


@case("PUT", "/v1/sandboxes/{sandboxId}/packs/{digest}")
def _put_pack(world: World, path: str) -> Answer:
    answer = world.sandbox_api.call("PUT", world.fill(path), content=BLOB)
    assert answer.ok(201) == {"digest": DIGEST, "sizeBytes": len(BLOB)}
    return answer


@case("GET", "/v1/sandboxes/{sandboxId}/packs/{digest}")
def _get_pack(world: World, path: str) -> Answer:
    _stored_by_attempt(world)
    answer = world.sandbox_api.get(world.fill(path))
    assert (answer.status, answer.content) == (200, BLOB)
    return answer


def _stored_by_attempt(world: World) -> dict[str, str]:
    path = "/v1/sandboxes/{sandboxId}/assignments/{assignmentId}/workspaces"
    return world.sandbox_api.post(world.fill(path), workspace_of("f" * 40, kind="candidate")).ok()


@case("POST", "/v1/tasks/{taskId}/rounds")
def _prompt(world: World, path: str) -> Answer:
    answer = world.api.post(f"/v1/tasks/{world.names['runningTaskId']}/rounds", {"prompt": "More."})
    assert answer.ok(202)["state"] == "PROMPTED"
    return answer


@case("POST", "/v1/tasks/{taskId}/rounds/finish")
def _finish_rounds(world: World, path: str) -> Answer:
    made = world.api.graph(task("live", liveRounds=True))
    answer = world.api.post(f"/v1/tasks/{made['tasks'][0]['taskId']}/rounds/finish")
    assert answer.ok(202)["liveState"] == "FINISHING"
    return answer


@case("GET", "/v1/tasks/{taskId}/rounds/{roundKey}/outputs/{outputKey}/fetch")
def _round_output(world: World, path: str) -> Answer:
    base = f"/v1/tasks/{world.names['runningTaskId']}/rounds/written/outputs"
    answer = world.api.get(f"{base}/report/fetch")
    assert (answer.status, answer.content) == (200, b"said")
    world.api.get(f"{base}/files/fetch").refused("invalid_request")
    return answer


@case("GET", "/v1/tasks/{taskId}/rounds/{roundKey}/outputs/{outputKey}/workspace")
def _round_workspace(world: World, path: str) -> Answer:
    base = f"/v1/tasks/{world.names['runningTaskId']}/rounds/written/outputs"
    answer = world.api.get(f"{base}/files/workspace")
    assert answer.ok(200) == {"handle": {"digest": "d"}}
    return answer
