"""Artifacts that a running task stores and reads: piece by piece, for its own run and task, fenced by its attempt."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from api.caller import Answer, Api, task
from api.peer import SandboxPeer, adapter, sandbox
from api.routes import artifact_of
from flakes.core.limits import ARTIFACT_PIECE_BYTES_MAX
from flakes.wire.sandbox_stream import Assignment

CONTENT = bytes(range(256)) * 20


class Holder:
    """A running task, and what its daemon asks for it."""

    def __init__(self, api: Api, peer: SandboxPeer, mate: Api, one: Assignment) -> None:
        self.api, self.peer, self.mate, self.one = api, peer, mate, one

    def ask(self, operation: str, **body: Any) -> Answer:
        base = f"/v1/sandboxes/{self.peer.sandbox_id}/assignments/{self.one.assignment_id}/operations"
        return self.mate.post(f"{base}/{operation}", body)

    def announce(self, content: bytes = CONTENT, **fields: Any) -> str:
        body = {"kind": "file", "digest": digest(content), "sizeBytes": len(content)} | fields
        return self.ask("artifact.create", **body).ok(200)["artifactId"]

    def append(self, artifact_id: str, offset: int, content: bytes) -> Answer:
        encoded = base64.b64encode(content).decode()
        return self.ask("artifact.append", artifactId=artifact_id, offset=offset, bytesBase64=encoded)

    def stored(self, content: bytes = CONTENT, **fields: Any) -> str:
        artifact_id = self.announce(content, **fields)
        assert self.append(artifact_id, 0, content).ok(200)["state"] == "ready"
        return artifact_id


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def holders(api: Api) -> Iterator[tuple[Holder, Holder]]:
    """Two running tasks of one run."""
    own, who = adapter(), api.sandbox()
    api.graph(task("one", own), task("two", own))
    with sandbox(api, who, adapters=[own]) as peer:
        started = {one.task_key: one for one in (peer.start(), peer.start())}
        mate = api.as_(who[1])
        yield Holder(api, peer, mate, started["one"]), Holder(api, peer, mate, started["two"])


def test_from_announcement_to_the_last_piece(api: Api, holders: tuple[Holder, Holder]) -> None:
    one, two = holders
    artifact_id = one.announce(name="words.bin", mediaType="text/plain", metadata={"a": 1})
    assert one.append(artifact_id, 0, CONTENT[:2_000]).ok(200)["offset"] == 2_000
    # Sent again, because the answer was lost: nothing is written twice.
    assert one.append(artifact_id, 0, CONTENT[:2_000]).ok(200)["offset"] == 2_000
    assert one.append(artifact_id, 500, CONTENT[500:1_000]).ok(200)["offset"] == 2_000
    for offset in (2_001, 1_000):
        refused = one.append(artifact_id, offset, CONTENT[offset:3_000]).refused("upload_offset_conflict")
        assert refused["expectedOffset"] == 2_000
    one.append(artifact_id, 2_000, CONTENT[2_000:] + b"more").refused("invalid_request")
    one.ask("artifact.read", artifactId=artifact_id).refused("artifact_pending")
    last = one.append(artifact_id, 2_000, CONTENT[2_000:]).ok(200)
    assert (last["state"], last["digest"]) == ("ready", digest(CONTENT))
    assert one.append(artifact_id, 2_000, CONTENT[2_000:]).ok(200)["state"] == "ready"
    one.append(artifact_id, len(CONTENT), b"more").refused("artifact_ready")
    shown = api.get(f"/v1/artifacts/{artifact_id}").ok()
    assert (shown["runId"], shown["taskId"]) == (one.one.run_id, one.one.task_id)
    assert (shown["name"], shown["mediaType"], shown["metadata"]) == ("words.bin", "text/plain", {"a": 1})
    assert api.get(f"/v1/artifacts/{artifact_id}/fetch").content == CONTENT
    events = api.activity(one.one.task_id, "artifact.ready")
    assert {"artifact.created", "artifact.ready"} <= {e["type"] for e in events}
    read = two.ask("artifact.read", artifactId=artifact_id, offset=5_000).ok(200)
    assert base64.b64decode(read["bytesBase64"]) == CONTENT[5_000:]
    assert (read["sizeBytes"], read["digest"]) == (len(CONTENT), digest(CONTENT))
    assert two.ask("artifact.read", artifactId=artifact_id, offset=len(CONTENT)).ok(200)["bytesBase64"] == ""
    two.ask("artifact.read", artifactId=artifact_id, offset=len(CONTENT) + 1).refused("range_not_satisfiable")


def test_content_that_is_not_what_was_announced_is_not_kept(holders: tuple[Holder, Holder]) -> None:
    one, _ = holders
    artifact_id = one.announce()
    one.append(artifact_id, 0, CONTENT[:100]).ok(200)
    one.append(artifact_id, 100, bytes(len(CONTENT) - 100)).refused("digest_mismatch")
    assert one.append(artifact_id, 0, CONTENT).ok(200)["state"] == "ready"
    assert one.stored(b"")


def test_pieces_are_bounded(holders: tuple[Holder, Holder]) -> None:
    one, _ = holders
    large = bytes(ARTIFACT_PIECE_BYTES_MAX + 1)
    artifact_id = one.announce(large)
    one.append(artifact_id, 0, large).refused("invalid_request")
    one.append(artifact_id, 0, large[:-1]).ok(200)
    assert one.append(artifact_id, len(large) - 1, large[-1:]).ok(200)["state"] == "ready"
    read = one.ask("artifact.read", artifactId=artifact_id).ok(200)
    assert len(base64.b64decode(read["bytesBase64"])) == ARTIFACT_PIECE_BYTES_MAX
    one.ask("artifact.create", kind="file", digest=digest(b""), sizeBytes=6 * 1024**3).refused("invalid_request")
    too_much = {"a": "x" * 20_000}
    one.ask("artifact.create", kind="file", digest=digest(b""), sizeBytes=0, metadata=too_much).refused("limit_exceeded")
    one.ask("artifact.create", kind="file", digest=digest(b""), sizeBytes=0, runId="r").refused("invalid_request")


def test_a_task_writes_its_own_and_reads_those_of_its_run(
    api: Api, other: Api, holders: tuple[Holder, Holder]
) -> None:
    one, two = holders
    announced = one.announce()
    two.append(announced, 0, CONTENT).refused("not_found")
    by_hand = api.post("/v1/artifacts", artifact_of(CONTENT, runId=one.one.run_id)).ok(201)["artifactId"]
    two.ask("artifact.read", artifactId=by_hand).ok(200)
    two.append(by_hand, 0, b"").refused("not_found")
    elsewhere = api.post("/v1/artifacts", artifact_of(CONTENT, runId=api.run()["runId"])).ok(201)
    loose = api.post("/v1/artifacts", artifact_of(CONTENT)).ok(201)
    foreign = other.post("/v1/artifacts", artifact_of(CONTENT)).ok(201)
    for found in (elsewhere, loose, foreign):
        one.ask("artifact.read", artifactId=found["artifactId"]).refused("not_found")


def test_an_input_artifact_of_the_account_can_be_read(api: Api) -> None:
    own, who = adapter(), api.sandbox()
    loose = api.post("/v1/artifacts", artifact_of(CONTENT)).ok(201)["artifactId"]
    api.graph(task("a", own, inputArtifacts=[loose]))
    with sandbox(api, who, adapters=[own]) as peer:
        holder = Holder(api, peer, api.as_(who[1]), peer.start())
        assert holder.ask("artifact.read", artifactId=loose).ok(200)["sizeBytes"] == len(CONTENT)
        peer.finish(holder.one.assignment_id)


def test_the_end_of_the_attempt_ends_what_it_was_sending(api: Api, holders: tuple[Holder, Holder]) -> None:
    one, _ = holders
    artifact_id = one.announce()
    one.append(artifact_id, 0, CONTENT[:100]).ok(200)
    one.peer.finish(one.one.assignment_id)
    one.append(artifact_id, 100, CONTENT[100:]).refused("stale_assignment")
    one.ask("artifact.read", artifactId=artifact_id).refused("stale_assignment")
    assert api.get(f"/v1/artifacts/{artifact_id}").ok()["state"] == "pending"


def test_an_announcement_that_is_sent_again_is_the_same(api: Api, holders: tuple[Holder, Holder]) -> None:
    one, _ = holders
    base = f"/v1/sandboxes/{one.peer.sandbox_id}/assignments/{one.one.assignment_id}/operations"
    body = {"kind": "file", "digest": digest(CONTENT), "sizeBytes": len(CONTENT)}
    headers = {"Idempotency-Key": "the-same"}
    first, again = (one.mate.call("POST", f"{base}/artifact.create", body, headers=headers) for _ in range(2))
    assert first.ok(200) == again.ok(200)
    found = api.get(f"/v1/runs/{one.one.run_id}/artifacts").ok()["artifacts"]
    assert [each["artifactId"] for each in found] == [first.ok(200)["artifactId"]]
