"""Permission requests over HTTP: asked by the sandbox for a running task, answered by its owner."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from api.caller import Answer, Api, name, task
from api.peer import SandboxPeer, adapter, sandbox
from embedded_servers import wait_until
from flakes.wire.sandbox_stream import Assignment


@dataclass
class Asker:
    """A running task and the credential of its sandbox."""

    api: Api
    sandbox_api: Api
    peer: SandboxPeer
    given: Assignment
    adapter: str
    ids: list[str] = field(default_factory=list)

    def operation(self, operation: str, body: dict[str, Any]) -> Answer:
        base = f"/v1/sandboxes/{self.peer.sandbox_id}/assignments/{self.given.assignment_id}"
        return self.sandbox_api.post(f"{base}/operations/{operation}", body)

    def ask(self, prompt: str = "May I?", **fields: Any) -> dict[str, Any]:
        body = {"operationId": name("op"), "prompt": prompt, **fields}
        return self.operation("permission.ask", body).ok(200)

    def status(self, asked: dict[str, Any], wait_s: float = 0) -> dict[str, Any]:
        body = {"permissionRequestId": asked["permissionRequestId"], "waitS": wait_s}
        return self.operation("permission.status", body).ok(200)


@contextmanager
def asking(api: Api) -> Iterator[Asker]:
    own, who = adapter(), api.sandbox()
    api.graph(task("only", own))
    with sandbox(api, who, adapters=[own]) as peer:
        yield Asker(api, api.as_(who[1]), peer, peer.start(), own)


@pytest.fixture
def asker(api: Api) -> Iterator[Asker]:
    with asking(api) as it:
        yield it


def respond(api: Api, asked: dict[str, Any], decision: str = "approved", **fields: str) -> Answer:
    path = f"/v1/tasks/{asked['taskId']}/permissions/{asked['permissionRequestId']}/respond"
    return api.post(path, {"decision": decision, **fields})


def test_from_the_question_to_the_answer(api: Api, asker: Asker) -> None:
    asked = asker.ask("May I delete the branch?", action="git branch -D x", details={"branch": "x"})
    assert (asked["status"], asked["taskKey"]) == ("pending", "only")
    assert asker.status(asked)["status"] == "pending"
    assert api.explained(asked["taskId"])["code"] == "needs_input"
    for path in ("/v1/permissions?status=pending", f"/v1/tasks/{asked['taskId']}/permissions"):
        (listed,) = api.get(path).ok()["permissions"]
        assert listed == asked
    answered = respond(api, asked, "denied", reason="keep it").ok(200)
    assert (answered["status"], answered["decision"], answered["reason"]) == ("denied", "denied", "keep it")
    assert asker.status(asked) == answered
    assert api.get("/v1/permissions", status="pending").ok()["permissions"] == []
    assert api.get("/v1/permissions", status="denied").ok()["permissions"] == [answered]
    assert api.explained(asked["taskId"])["code"] == "running"
    refused = respond(api, asked).refused("permission_already_responded")
    assert refused["permission"] == answered
    told = [e for e in api.activity(asked["taskId"], "permission.responded") if e["type"].startswith("permission.")]
    assert [e["type"] for e in told] == ["permission.requested", "permission.responded"]
    assert told[0]["data"]["prompt"] == "May I delete the branch?"
    assert (told[1]["data"]["decision"], told[1]["data"]["reason"]) == ("denied", "keep it")


def test_asking_again_is_the_same_request(asker: Asker) -> None:
    asked = asker.ask(operationId="mine")
    assert asker.ask(operationId="mine") == asked
    body = {"operationId": "mine", "prompt": "Something else?"}
    asker.operation("permission.ask", body).refused("operation_conflict")


def test_only_the_asking_attempt_learns_the_answer(api: Api, asker: Asker) -> None:
    asked = asker.ask()
    with asking(api) as stranger:
        body = {"permissionRequestId": asked["permissionRequestId"]}
        stranger.operation("permission.status", body).refused("not_found")
        respond(api, {**asked, "taskId": stranger.given.task_id}).refused("not_found")
    asker.peer.finish(asker.given.assignment_id)
    asker.operation("permission.ask", {"operationId": "x", "prompt": "?"}).refused("stale_assignment")
    late = respond(api, asked).refused("permission_stale_assignment")
    assert late["permission"]["status"] == "cancelled"


def test_an_answer_wakes_the_task_that_waits(api: Api, asker: Asker) -> None:
    asked = asker.ask()
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(lambda: (asker.status(asked, 25), time.monotonic()))
        # Not a condition to wait for: the poll is somewhere in the server now, or about to be.
        threading.Event().wait(0.3)
        assert not waits.done()
        began_s = time.monotonic()
        respond(api, asked).ok(200)
        found, woken_s = waits.result(10)
    assert (found["status"], found["decision"]) == ("approved", "approved")
    assert woken_s - began_s < 1.5


def test_a_wait_ends_with_its_time(asker: Asker) -> None:
    asked = asker.ask()
    began_s = time.monotonic()
    assert asker.status(asked, 0.4)["status"] == "pending"
    assert 0.35 <= time.monotonic() - began_s < 5.0
    body = {"permissionRequestId": asked["permissionRequestId"], "waitS": 26}
    asker.operation("permission.status", body).refused("invalid_request")


def test_tasks_that_wait_hold_no_connection_to_the_database(api: Api, asker: Asker) -> None:
    """More waits than the pool has connections, and everybody else is served at once."""
    asked = [asker.ask() for _ in range(40)]
    with ThreadPoolExecutor(40) as pool:
        waits = [pool.submit(asker.status, each, 20) for each in asked]
        threading.Event().wait(0.5)
        began_s = time.monotonic()
        for each in asked:
            respond(api, each).ok(200)
        assert {wait.result(15)["status"] for wait in waits} == {"approved"}
        assert time.monotonic() - began_s < 10


def test_nobody_answers(api: Api, asker: Asker) -> None:
    asked = asker.ask(expiresInS=0.2, default="approved")
    assert asked["default"] == "approved"
    found = asker.status(asked, 20)
    assert (found["status"], found["decision"]) == ("expired", "approved")
    respond(api, asked, "denied").refused("permission_already_responded")
    (told,) = [e for e in api.activity(asked["taskId"], "permission.expired") if e["type"] == "permission.expired"]
    assert told["data"]["decision"] == "approved"


def test_the_end_of_the_attempt_ends_the_wait(asker: Asker) -> None:
    asked = asker.ask()
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(asker.status, asked, 25)
        threading.Event().wait(0.3)
        asker.peer.finish(asker.given.assignment_id)
        assert waits.result(10)["status"] == "cancelled"


def test_of_many_answers_at_once_one_wins(api: Api, asker: Asker) -> None:
    for _ in range(5):
        asked = asker.ask()
        with ThreadPoolExecutor(6) as pool:
            decisions = ["approved", "denied"] * 3
            answers = list(pool.map(partial(respond, api, asked), decisions))
        won = [each for each in answers if each.status == 200]
        assert len(won) == 1
        for each in answers:
            if each is not won[0]:
                assert each.refused("permission_already_responded")["permission"] == won[0].json


def test_the_inbox_has_pages_and_knows_its_statuses(api: Api, asker: Asker) -> None:
    asked = [asker.ask(f"{n}?") for n in range(5)]
    first = api.get("/v1/permissions", status="pending", limit=3).ok()
    assert [each["prompt"] for each in first["permissions"]] == ["4?", "3?", "2?"]
    rest = api.get("/v1/permissions", status="pending", limit=3, cursor=first["nextCursor"]).ok()
    assert ([each["prompt"] for each in rest["permissions"]], rest["nextCursor"]) == (["1?", "0?"], None)
    respond(api, asked[0]).ok(200)
    assert len(api.get("/v1/permissions").ok()["permissions"]) == 5
    api.get("/v1/permissions", status="nonsense").refused("invalid_request")
    path = f"/v1/tasks/{asked[0]['taskId']}/permissions"
    page = api.get(path, limit=4).ok()
    assert len(api.get(path, limit=4, cursor=page["nextCursor"]).ok()["permissions"]) == 1


def test_bad_questions_and_answers(api: Api, asker: Asker) -> None:
    for fields in (
        {"prompt": ""}, {"prompt": "x" * 4_001}, {"expiresInS": 0}, {"expiresInS": -1},
        {"default": "perhaps"}, {"details": []}, {"operationId": ""}, {"taskId": "task_other"},
    ):  # fmt: skip
        body = {"operationId": "op", "prompt": "?", **fields}
        asker.operation("permission.ask", body).refused("invalid_request")
    body = {"operationId": "op", "prompt": "?", "details": {"x": "y" * 20_000}}
    assert asker.operation("permission.ask", body).refused("limit_exceeded")["limit"] == 16 * 1024
    asked = asker.ask()
    respond(api, asked, "perhaps").refused("invalid_request")
    respond(api, asked, "denied", reason="x" * 2_001).refused("invalid_request")
    assert asker.status(asked)["status"] == "pending"


def test_a_lost_sandbox_takes_its_questions_with_it_and_the_next_attempt_asks_anew(quick: Api) -> None:
    with asking(quick) as asker:
        asked = asker.ask()
    task_id, path = asked["taskId"], f"/v1/permissions/{asked['permissionRequestId']}"
    wait_until(lambda: quick.get(path).ok()["status"] == "cancelled")
    with sandbox(quick, adapters=[asker.adapter]) as peer:
        given = peer.start()
        assert given.task_id == task_id
        assert quick.explained(task_id)["code"] == "running"
