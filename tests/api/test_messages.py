"""Messages to running tasks, over HTTP and the stream of the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from api.caller import Api, task
from api.peer import SandboxPeer, adapter, sandbox
from embedded_servers import wait_until
from flakes.wire.sandbox_stream import Assignment, Input, InputMessage, InputState


@contextmanager
def running(api: Api) -> Iterator[tuple[SandboxPeer, Assignment, tuple[str, str], str]]:
    """A task that runs on a connected sandbox: the peer, the assignment, who it is, its adapter."""
    own, who = adapter(), api.sandbox()
    api.graph(task("only", own))
    with sandbox(api, who, adapters=[own]) as peer:
        yield peer, peer.start(), who, own


def send(api: Api, task_id: str, text: str = "hello", mode: str = "follow_up") -> str:
    body = {"mode": mode, "message": text}
    return api.post(f"/v1/tasks/{task_id}/messages", body).ok(202)["messageId"]


def listed(api: Api, task_id: str) -> list[tuple[str, str]]:
    found = api.get(f"/v1/tasks/{task_id}/messages").ok()["messages"]
    return [(each["message"], each["state"]) for each in found]


def state(assignment: Assignment, message_id: str, now: str, reason: str = "") -> InputState:
    return InputState(
        assignment_id=assignment.assignment_id, message_id=message_id, state=now, reason=reason  # type: ignore[arg-type]
    )


def test_a_message_reaches_the_sandbox_and_its_states_come_back(api: Api) -> None:
    with running(api) as (peer, given, _, _):
        message_id = send(api, given.task_id, " more to the left ", "steer")
        expected = InputMessage(
            assignment_id=given.assignment_id, message_id=message_id, mode="steer",
            text="more to the left",
        )  # fmt: skip
        assert peer.expect(Input).messages == [expected]
        for now in ("delivered", "consumed"):
            assert peer.deliver(state(given, message_id, now)) == set()
            assert listed(api, given.task_id) == [("more to the left", now)]
        (message,) = api.get(f"/v1/tasks/{given.task_id}/messages").ok()["messages"]
        assert message["createdAt"] <= message["deliveredAt"] <= message["consumedAt"]
        told = [e["type"] for e in api.activity(given.task_id, "message.consumed") if e["type"].startswith("message.")]
        assert told == ["message.queued", "message.delivered", "message.consumed"]


def test_a_reconnect_sends_again_what_was_not_delivered(api: Api) -> None:
    with running(api) as (peer, given, who, own):
        first = send(api, given.task_id, "first")
        peer.deliver(state(given, first, "delivered"))
        queued = [send(api, given.task_id, f"{n}") for n in range(9)]
    with sandbox(api, who, adapters=[own], holds={given.assignment_id: "running"}) as peer:
        arrived: list[str] = []
        while len(arrived) < 9:
            arrived += [message.message_id for message in peer.expect(Input).messages]
        assert arrived == queued
        # The result that follows in the same batch does not overtake the report.
        peer.send(state(given, queued[0], "delivered"), state(given, queued[0], "consumed"))
        peer.finish(given.assignment_id)
    found = dict(listed(api, given.task_id))
    assert (found["0"], found["first"], found["1"]) == ("consumed", "undeliverable", "undeliverable")


def test_a_message_that_the_sandbox_refuses_says_why(api: Api) -> None:
    with running(api) as (peer, given, _, _):
        message_id = send(api, given.task_id)
        peer.deliver(state(given, message_id, "refused", "the adapter takes no messages"))
        (message,) = api.get(f"/v1/tasks/{given.task_id}/messages").ok()["messages"]
        assert (message["state"], message["reason"]) == ("undeliverable", "the adapter takes no messages")


def test_a_message_to_a_finished_task_is_refused_and_one_left_behind_is_undeliverable(api: Api) -> None:
    """F14."""
    with running(api) as (peer, given, _, _):
        send(api, given.task_id)
        peer.finish(given.assignment_id)
        undeliverable = "message.undeliverable"
        (left,) = [e for e in api.activity(given.task_id, undeliverable) if e["type"] == undeliverable]
        assert "the attempt ended (succeeded)" in left["data"]["reason"]
        refused = api.post(f"/v1/tasks/{given.task_id}/messages", {"mode": "steer", "message": "x"})
        assert refused.refused("task_not_running")["status"] == "SUCCEEDED"
        assert listed(api, given.task_id) == [("hello", "undeliverable")]
        assert peer.deliver(state(given, "msg_unknown", "consumed")) == set()


def test_a_message_needs_a_connected_sandbox(api: Api) -> None:
    with running(api) as (_, given, who, own):
        path = f"/v1/tasks/{given.task_id}/messages"
    body = {"mode": "steer", "message": "x"}
    wait_until(lambda: api.get(f"/v1/sandboxes/{who[0]}").ok()["liveness"] == "offline")
    api.post(path, body).refused("sandbox_offline")
    waiting = api.graph(task("only", own))["tasks"][0]["taskId"]
    api.post(f"/v1/tasks/{waiting}/messages", body).refused("task_not_running")
    assert api.get(path).ok()["messages"] == []


def test_pages_and_limits(api: Api) -> None:
    with running(api) as (_, given, _, _):
        path = f"/v1/tasks/{given.task_id}/messages"
        for n in range(3):
            send(api, given.task_id, f"{n}")
        first = api.get(path, limit=2).ok()
        assert [each["message"] for each in first["messages"]] == ["2", "1"]
        rest = api.get(path, limit=2, cursor=first["nextCursor"]).ok()
        assert ([each["message"] for each in rest["messages"]], rest["nextCursor"]) == (["0"], None)
        api.post(path, {"mode": "steer", "message": "  "}).refused("invalid_request")
        api.post(path, {"mode": "shout", "message": "x"}).refused("invalid_request")
        too_long = api.post(path, {"mode": "steer", "message": "x" * 20_001})
        assert too_long.refused("limit_exceeded")["limit"] == 20_000
        api.post(path, {"mode": "steer", "message": "a\0b"}).refused("invalid_request")
        send(api, given.task_id, "\x01" * 20_000)
        assert len(listed(api, given.task_id)) == 4
