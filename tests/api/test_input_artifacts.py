"""Artifacts as inputs of tasks: what is refused when, what is offered, and whose bytes a sandbox may read."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from api.caller import Answer, Api, task
from api.peer import adapter, sandbox
from api.routes import artifact_of
from flakes.core import limits

CONTENT = b"what the task reads"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


def stored(api: Api, content: bytes = CONTENT, **fields: object) -> str:
    return api.post("/v1/artifacts", artifact_of(content, **fields)).ok(201)["artifactId"]


def pending(api: Api) -> str:
    return api.post("/v1/artifacts", {"kind": "file"}).ok(201)["artifactId"]


def saved(api: Api, *artifact_ids: str, **fields: Any) -> Answer:
    run = api.run()["runKey"]
    return api.put(f"/v1/runs/{run}/tasks/a", task("a", inputArtifacts=list(artifact_ids), **fields))


def submitted(api: Api, *artifact_ids: str, **fields: Any) -> Answer:
    run = api.run()
    body = {
        "name": run["name"], "projectKey": run["projectKey"],
        "tasks": [task("a", inputArtifacts=list(artifact_ids), **fields)],
    }  # fmt: skip
    return api.post(f"/v1/runs/{run['runKey']}-graph/graph", body)


@pytest.mark.parametrize("give", [saved, submitted])
def test_what_cannot_be_delivered_is_refused_whole(api: Api, other: Api, give: Any) -> None:
    mine = stored(api)
    for foreign in (stored(other), "artifact_nobody", ""):
        refused = give(api, mine, foreign).refused("not_found")
        assert refused["artifactId"] == foreign
        assert "flakes artifacts list" in refused["fix"]
    unfinished = pending(api)
    refused = give(api, mine, unfinished).refused("artifact_pending")
    assert f"--resume {unfinished}" in refused["fix"]
    give(api, *[mine] * (limits.INPUT_ARTIFACTS_MAX + 1)).refused("invalid_request")
    give(api, mine, mine).ok(201)


def test_it_must_still_be_there_when_the_task_is_admitted(api: Api) -> None:
    run, artifact_id = api.run()["runKey"], stored(api)
    api.put(f"/v1/runs/{run}/tasks/a", task("a", inputArtifacts=[artifact_id])).ok(201)
    api.delete(f"/v1/artifacts/{artifact_id}").ok()
    refused = api.post(f"/v1/runs/{run}/tasks/admit", {"all": True}).refused("not_found")
    assert refused["taskKey"] == "a"
    assert api.get(f"/v1/runs/{run}/tasks/a").ok()["status"] == "SAVED"


def test_together_they_may_not_be_too_large(server: Any) -> None:
    api = server.account()
    several = [stored(api, bytes([n])) for n in range(3)]
    with server.connect() as conn:
        conn.execute(
            "update artifacts set size_bytes = %s where artifact_id = any(%s)",
            [limits.ARTIFACT_SIZE_BYTES_MAX, several],
        )
    saved(api, *several[:2]).ok(201)
    refused = saved(api, *several).refused("limit_exceeded")
    assert refused["limit"] == limits.INPUT_ARTIFACTS_SIZE_BYTES_MAX


def test_the_directory_belongs_to_one_of_the_two(api: Api) -> None:
    run = api.run()["runKey"]
    api.put(f"/v1/runs/{run}/tasks/artifacts", task("artifacts")).ok(201)
    fields = task("a", inputArtifacts=[stored(api)], dependsOn=["artifacts"])
    api.put(f"/v1/runs/{run}/tasks/a", fields).refused("invalid_request")


def test_an_identical_graph_replays_also_when_its_artifact_has_gone(api: Api) -> None:
    artifact_id, run = stored(api), api.run()
    body = {
        "name": "r", "projectKey": run["projectKey"], "tasks": [task("a", inputArtifacts=[artifact_id])],
    }  # fmt: skip
    path = f"/v1/runs/{run['runKey']}-again/graph"
    api.post(path, body).ok(201)
    api.delete(f"/v1/artifacts/{artifact_id}").ok()
    api.post(path, body).ok(200)


def test_the_offer_names_them_and_only_its_sandbox_may_read_them(api: Api) -> None:
    own, who, stranger = adapter(), api.sandbox(), api.sandbox()
    first, second = stored(api, name="words.txt"), stored(api, b"other")
    api.graph(task("a", own, inputArtifacts=[second, first]))
    blob = f"/v1/sandboxes/{who[0]}/blobs/{DIGEST}"
    api.as_(who[1]).get(blob).refused("not_found")
    with sandbox(api, who, adapters=[own]) as peer:
        offered = peer.start()
        assert [(each.artifact_id, each.name, each.size_bytes) for each in offered.artifacts] == [
            (second, None, 5), (first, "words.txt", len(CONTENT)),
        ]  # fmt: skip
        assert offered.artifacts[1].digest == DIGEST
        answer = api.as_(who[1]).get(blob)
        assert (answer.status, answer.content) == (200, CONTENT)
        api.as_(stranger[1]).get(f"/v1/sandboxes/{stranger[0]}/blobs/{DIGEST}").refused("not_found")
        peer.finish(offered.assignment_id)
    api.as_(who[1]).get(blob).refused("not_found")


def test_one_that_was_deleted_after_the_admission_is_not_offered(api: Api) -> None:
    own, who, artifact_id = adapter(), api.sandbox(), stored(api)
    api.graph(task("a", own, inputArtifacts=[artifact_id]))
    api.delete(f"/v1/artifacts/{artifact_id}").ok()
    with sandbox(api, who, adapters=[own]) as peer:
        offered = peer.start()
        assert offered.artifacts == []
        assert offered.definition is not None
        assert offered.definition.input_artifacts == [artifact_id]
        peer.finish(offered.assignment_id, "failed")
