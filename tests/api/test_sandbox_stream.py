"""The stream of a sandbox, frame by frame: who may open it, what it survives, and what each reconnect puts right."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from websockets.exceptions import InvalidStatus

from api.caller import Api, name, task
from api.following import following
from api.peer import (
    SandboxPeer,
    adapter,
    beating,
    lines,
    open_stream,
    result,
    sandbox,
    sandbox_hello,
)
from api.plane import Server
from embedded_servers import wait_until
from flakes.wire.sandbox_stream import (
    PROTOCOL,
    Accepted,
    Ack,
    Assign,
    Batch,
    Cancel,
    Declined,
    Heartbeat,
    InputState,
    LogLine,
    LogLines,
    TranscriptChunk,
    Welcome,
)
from flakes.wire.tasks import Evidence, Output, TaskError, TaskWarning
from flakes.wire.transcripts import EntryBody


def queued(api: Api, own: str, count: int = 1, **fields: Any) -> list[str]:
    """Ids of new tasks for this adapter."""
    made = api.graph(*(task(f"t{n}", own, **fields) for n in range(count)))
    return [t["taskId"] for t in made["tasks"]]


def refused_events(api: Api, task_id: str, count: int) -> list[dict[str, Any]]:
    events = api.activity(task_id, "attempt.refused", count)
    return [e["data"] for e in events if e["type"] == "attempt.refused"]


# Opening


@pytest.mark.parametrize("kind", ["sandboxes", "hosts"])
def test_who_may_open_a_stream(api: Api, other: Api, kind: str) -> None:
    make = Api.sandbox if kind == "sandboxes" else Api.host
    (own, token), (mate, mates_token), (_, foreign) = make(api), make(api), make(other)
    cross = (api.host() if kind == "sandboxes" else api.sandbox())[1]

    def status(peer_id: str, token: str | None) -> int:
        with pytest.raises(InvalidStatus) as caught:
            open_stream(api.url, kind, peer_id, token)
        return caught.value.response.status_code

    head, _, secret = token.partition(".")
    for wrong in (None, "nonsense", head, f"{head}.{secret[::-1]}"):
        assert status(own, wrong) == 401
    for wrong in (mates_token, foreign, api.token, cross):
        assert status(own, wrong) == 403
    assert status(mate, token) == 403
    with open_stream(api.url, kind, own, token):
        pass


def test_the_first_frame_must_be_the_own_hello(api: Api) -> None:
    who = api.sandbox()
    for first in (b"{}", b"nonsense", '{"type":"heartbeat","running":0}'):
        with open_stream(api.url, "sandboxes", *who) as ws:
            ws.send(first)
            assert SandboxPeer(ws, who[0]).wait_closed() == 1002
    with open_stream(api.url, "sandboxes", *who) as ws:
        peer = SandboxPeer(ws, who[0])
        peer.tell(sandbox_hello(api.sandbox()[0]))
        assert peer.wait_closed() == 1002
    assert api.get(f"/v1/sandboxes/{who[0]}").ok()["liveness"] == "offline"


@pytest.mark.parametrize(
    "hello",
    [{"max_concurrency": -1}, {"max_concurrency": 10**12}, {"capabilities": [str(n) for n in range(65)]}],
)
def test_a_hello_beyond_the_limits_is_refused(api: Api, hello: dict[str, Any]) -> None:
    who = api.sandbox()
    with open_stream(api.url, "sandboxes", *who) as ws:
        peer = SandboxPeer(ws, who[0])
        peer.tell(sandbox_hello(who[0], **hello))
        assert peer.wait_closed() == 1008
        assert ws.close_reason
    assert api.get(f"/v1/sandboxes/{who[0]}").ok()["status"] == "launching"


def test_the_welcome_and_what_the_fleet_shows(api: Api) -> None:
    who = api.sandbox()
    with following(api) as stream:
        with sandbox(api, who, adapters=["b", "a", "a"], capabilities=["x"], max_concurrency=3) as peer:
            assert peer.welcome.protocol == PROTOCOL
            assert peer.welcome.heartbeat_s == 1.0
            assert peer.welcome.window > 0
            assert peer.welcome.drop == []
            assert abs(peer.welcome.server_time_ms / 1000 - time.time()) < 60
            shown = api.get(f"/v1/sandboxes/{who[0]}").ok()
            assert (shown["status"], shown["liveness"]) == ("running", "active")
            assert (shown["adapters"], shown["capabilities"]) == (["a", "b"], ["x"])
            assert (shown["maxConcurrency"], shown.get("running", 0)) == (3, 0)
            running = stream.until(lambda s: s.event == "sandbox.running")[-1]
            assert running.data["data"]["sandboxId"] == who[0]
        offline = stream.until(lambda s: s.event == "sandbox.offline")[-1]
        assert offline.data["data"]["sandboxId"] == who[0]
        assert api.get(f"/v1/sandboxes/{who[0]}").ok()["liveness"] == "offline"


def test_the_first_frame_is_always_the_welcome(api: Api) -> None:
    """Also when offers and cancels are on their way at that very moment."""
    own = adapter()
    who = api.sandbox()
    project = api.project()
    for n in range(25):
        made = api.graph(task("a", own), key=name("burst"), projectKey=project)
        with sandbox(api, who, adapters=[own]) as peer:
            if n % 2:
                peer.start()
                api.post(f"/v1/tasks/{made['tasks'][0]['taskId']}/cancel").ok()


# Work


def test_a_task_from_offer_to_result(api: Api) -> None:
    own = adapter()
    project = api.project()
    first = task("a", own, input={"x": [1]}, declaredOutputs={"o": {"kind": "json"}})
    with sandbox(api, adapters=[own]) as peer:
        made = api.graph(
            first, task("b", own, dependsOn=["a"]), projectKey=project, metadata={"ticket": 7}
        )
        offered = peer.offer()
        assert offered.task_id == made["tasks"][0]["taskId"]
        assert (offered.run_key, offered.project_key) == (made["run"]["runKey"], project)
        assert (offered.task_key, offered.attempt, offered.run_metadata) == ("a", 1, {"ticket": 7})
        assert offered.definition is not None
        assert offered.definition.input == {"x": [1]}
        assert api.task(offered.task_id)["status"] == "QUEUED"
        assert peer.deliver(Accepted(assignment_id=offered.assignment_id)) == set()
        shown = api.task(offered.task_id)
        assert (shown["status"], shown["sandboxId"]) == ("RUNNING", peer.sandbox_id)
        assert api.get(f"/v1/sandboxes/{peer.sandbox_id}").ok()["running"] == 1
        output = Output(kind="json", size_bytes=2, digest=f"sha256:{'0' * 64}", text="{}")
        evidence = [Evidence(command="true", exit_code=0, passed=True)]
        assert not peer.finish(
            offered.assignment_id, text="closing words", exit_code=0, outputs={"o": output},
            evidence=evidence,
        )  # fmt: skip
        follower = peer.offer()
        assert follower.task_key == "b"
        assert [(i.task_key, i.output_key, i.output) for i in follower.inputs] == [("a", "o", output)]
    got = api.get(f"/v1/tasks/{offered.task_id}/result").ok()
    assert (got["text"], got["exitCode"], got["verified"]) == ("closing words", 0, True)
    assert (got["attempt"], got["assignmentId"]) == (1, offered.assignment_id)
    raw = api.get(f"/v1/tasks/{offered.task_id}/outputs/o")
    assert (raw.content, raw.headers["content-type"]) == (b"{}", "application/json")


def test_warnings_of_a_result_are_kept_and_told(api: Api) -> None:
    own = adapter()
    made = api.graph(task("a", own))["tasks"][0]["taskId"]
    warning = TaskWarning(code="output_too_large", message="output `big` has 9 bytes", output="big")
    with sandbox(api, adapters=[own]) as peer:
        peer.finish(peer.start().assignment_id, warnings=[warning])
    kept = api.get(f"/v1/tasks/{made}/result").ok()
    assert kept["warnings"] == [msgspec.to_builtins(warning)]
    (told,) = [e for e in api.activity(made, "task.succeeded") if e["type"] == "task.succeeded"]
    assert told["data"]["warnings"] == [{"code": "output_too_large", "output": "big"}]


def test_a_declined_offer_goes_elsewhere(api: Api) -> None:
    own = adapter()
    with sandbox(api, adapters=[own], max_concurrency=1) as full:
        (made,) = queued(api, own)
        offered = full.offer()
        with sandbox(api, adapters=[own], max_concurrency=2) as roomy:
            assert full.deliver(Declined(assignment_id=offered.assignment_id, reason="full")) == set()
            again = roomy.offer()
            assert again.task_id == made
            assert again.attempt == 1, "declining spends no attempt"
    first = api.task(made)["attempts"][0]
    assert (first["state"], first["reason"]) == ("declined", "full")


def test_retry_and_failure(api: Api) -> None:
    own = adapter()
    with sandbox(api, adapters=[own]) as peer:
        (made,) = queued(api, own, retry={"maxAttempts": 2, "backoffS": 0.05, "maxBackoffS": 0.05})
        peer.finish(peer.start().assignment_id, "failed", exit_code=3)
        second = peer.start()
        assert second.attempt == 2
        error = TaskError(code="exit", message="no use", exit_code=4)
        peer.finish(second.assignment_id, "failed", error=error)
        shown = api.task(made)
    assert (shown["status"], shown["error"]["message"]) == ("FAILED", "no use")
    assert [a["state"] for a in shown["attempts"]] == ["failed", "failed"]


def test_a_running_task_is_cancelled_when_the_sandbox_says_so(api: Api) -> None:
    """F12: cancelled only when nothing of it runs."""
    own = adapter()
    with sandbox(api, adapters=[own], max_concurrency=1) as peer:
        (made,) = queued(api, own)
        running = peer.start()
        asked = api.post(f"/v1/tasks/{made}/cancel", {"reason": "changed my mind"}).ok(202)
        assert (asked["status"], asked["cancelRequested"]) == ("RUNNING", True)
        cancel = peer.expect(Cancel)
        assert cancel.assignment_ids == [running.assignment_id]
        assert cancel.reason == "changed my mind"
        assert api.get(f"/v1/sandboxes/{peer.sandbox_id}").ok()["running"] == 1
        peer.finish(running.assignment_id, "cancelled")
        assert api.task(made)["status"] == "CANCELLED"
        assert "running" not in api.get(f"/v1/sandboxes/{peer.sandbox_id}").ok()


def test_a_cancel_that_crosses_the_accept(api: Api) -> None:
    own = adapter()
    with sandbox(api, adapters=[own]) as peer:
        (made,) = queued(api, own)
        offered = peer.offer()
        assert api.post(f"/v1/tasks/{made}/cancel").ok(202)["status"] == "CANCELLED"
        assert peer.expect(Cancel).assignment_ids == [offered.assignment_id]
        assert peer.deliver(Accepted(assignment_id=offered.assignment_id)) == {offered.assignment_id}
    assert refused_events(api, made, 1) == [
        {"assignmentId": offered.assignment_id, "what": "accepted", "sandboxId": peer.sandbox_id}
    ]


# What a stream survives (F22)

BAD_FRAMES: list[str | bytes] = [
    "", "nonsense", "{", "[]", "null", "{}", '{"type":"launch"}', '{"type":"batch"}',
    '{"type":"batch","firstSeq":1,"messages":[{"type":"accepted"}]}',
    '{"type":"batch","firstSeq":1,"messages":[{"type":"teleport","assignmentId":"x"}]}',
    '{"type":"batch","firstSeq":"one","messages":[]}',
    '{"type":"batch","firstSeq":1,"messages":[]}',
    b"\xff\xfe\x00", b'{"type":"heartbeat","running":"\xff"}',
    '{"a":' * 20_000 + "1" + "}" * 20_000,
    '{"type":"welcome","protocol":1}',
]  # fmt: skip


def test_frames_that_make_no_sense_are_skipped(api: Api) -> None:
    own = adapter()
    with sandbox(api, adapters=[own]) as peer:
        for frame in BAD_FRAMES:
            peer.send_raw(frame)
        (made,) = queued(api, own)
        peer.finish(peer.start().assignment_id)
        assert api.task(made)["status"] == "SUCCEEDED"


def test_content_that_the_database_cannot_hold_closes_nothing(api: Api) -> None:
    """One poisoned message harms neither the messages beside it nor the next connection."""
    own = adapter()
    far = 10**40
    with sandbox(api, adapters=[own]) as peer:
        made = queued(api, own, 2)
        first, second = peer.start(), peer.start()
        bad_line = LogLine(channel="stdout", at_ms=10**18, text="from the far future")
        peer.send(
            Accepted(assignment_id="assignment_\0"),
            Declined(assignment_id="nothing", reason="a\0b"),
            lines(first.assignment_id, "before\0after", "a literal \\u0000"),
            LogLines(assignment_id=first.assignment_id, first_line=-5, lines=[bad_line]),
            LogLines(assignment_id=first.assignment_id, first_line=2**31, lines=[bad_line]),
            LogLines(assignment_id=first.assignment_id, first_line=2, lines=[bad_line]),
        )
        peer.send_raw(
            f'{{"type":"batch","firstSeq":{peer.seq + 1},"messages":[{{"type":"log",'
            f'"assignmentId":"{first.assignment_id}","firstLine":{far},"lines":[]}}]}}'
        )
        stale = peer.acked()
        assert {"nothing", "assignment_\ufffd"} <= stale
        assert first.assignment_id not in stale
        error = TaskError(code="a\0b", message="c\0d", details={"e\0": "\0"})
        text = "x\0y and \\u0000"
        assert peer.finish(first.assignment_id, "failed", error=error, text=text) == set()
        assert peer.finish(second.assignment_id) == set()
    logged = [entry["text"] for entry in api.get(f"/v1/tasks/{made[0]}/logs").ok()["logs"]]
    assert logged == ["before\ufffdafter", "a literal \\u0000", "from the far future"]
    shown = api.task(made[0])
    assert (shown["status"], shown["error"]["message"]) == ("FAILED", "c\ufffdd")
    assert api.get(f"/v1/tasks/{made[0]}/result").ok()["text"] == "x\ufffdy and \\u0000"
    assert api.task(made[1])["status"] == "SUCCEEDED"
    api.post(f"/v1/tasks/{made[0]}/retry").ok()


def test_frames_of_more_than_a_mebibyte(api: Api) -> None:
    own = adapter()
    with sandbox(api, adapters=[own]) as peer:
        (made,) = queued(api, own)
        running = peer.start()
        long = ["x" * 100_000 + str(n) for n in range(30)]
        assert peer.deliver(lines(running.assignment_id, *long)) == set()
        peer.finish(running.assignment_id, text="y" * 2_000_000)
    logged = api.get(f"/v1/tasks/{made}/logs", limit=100).ok()["logs"]
    assert [entry["text"] for entry in logged] == long
    assert len(api.get(f"/v1/tasks/{made}/result").ok()["text"]) == 2_000_000


def test_an_output_is_given_out_whatever_size_it_was_said_to_have(api: Api) -> None:
    own = adapter()
    digest = f"sha256:{'1' * 64}"
    with sandbox(api, adapters=[own]) as peer:
        (made,) = queued(api, own)
        wrong = Output(kind="text", size_bytes=3, digest=digest, text="hällo")
        missing = Output(kind="text", size_bytes=3, digest=digest)
        odd = Output(kind="text", size_bytes=3, digest="no\r\nX-Injected: 1")
        outputs = {"wrong": wrong, "missing": missing, "odd": odd}
        peer.finish(peer.start().assignment_id, outputs=outputs)
    assert api.get(f"/v1/tasks/{made}/outputs/wrong").content.decode() == "hällo"
    for key in ("missing", "odd", "other"):
        api.get(f"/v1/tasks/{made}/outputs/{key}").refused("not_found")


def test_the_newest_connection_replaces_the_older(api: Api) -> None:
    own = adapter()
    who = api.sandbox()
    with sandbox(api, who, adapters=[own]) as older:
        queued(api, own)
        running = older.start()
        with sandbox(api, who, adapters=[own], holds={running.assignment_id: "running"}) as newer:
            assert older.wait_closed() == 1012
            assert newer.welcome.drop == []
            older.close()
            assert api.get(f"/v1/sandboxes/{who[0]}").ok()["liveness"] == "active"
            assert newer.finish(running.assignment_id) == set()


# Reconnecting


def test_what_a_reconnect_puts_right(api: Api) -> None:
    """Dropped: what is not its own any more. Offered again: what it never heard of. Lost: what it has
    forgotten. Delivered: a result it could not send."""
    own = adapter()
    who = api.sandbox()
    with sandbox(api, who, adapters=[own], max_concurrency=4) as peer:
        made = queued(api, own, 4)
        kept, forgotten, ended, unheard = peer.start(), peer.start(), peer.start(), peer.offer()
        assert {kept.task_id, forgotten.task_id, ended.task_id, unheard.task_id} == set(made)
    foreign = "assignment_00000000000000000000000000"
    holds = {kept.assignment_id: "running", ended.assignment_id: "ended", foreign: "running"}
    with sandbox(api, who, adapters=[own], max_concurrency=4, holds=holds) as peer:
        assert peer.welcome.drop == [foreign]
        offers = {}
        while len(offers) < 2:
            offered = peer.offer()
            offers[offered.task_id] = offered
        assert offers[unheard.task_id].assignment_id == unheard.assignment_id
        again = offers[forgotten.task_id]
        assert again.assignment_id != forgotten.assignment_id
        assert again.attempt == 1, "a loss spends no attempt"
        assert peer.finish(ended.assignment_id) == set()
        assert peer.finish(ended.assignment_id) == set(), "a replay of a result is no stale message"
        assert peer.finish(kept.assignment_id) == set()
        late = peer.finish(forgotten.assignment_id)
        assert late == {forgotten.assignment_id}
    states = {a["assignmentId"]: a["state"] for a in api.task(forgotten.task_id)["attempts"]}
    assert states[forgotten.assignment_id] == "lost"
    assert api.task(ended.task_id)["status"] == "SUCCEEDED"
    assert [e["type"] for e in api.activity(ended.task_id, "task.succeeded")] == [
        "task.admitted", "task.running", "task.succeeded",
    ]  # fmt: skip


def test_a_cancel_is_told_again_on_reconnect(api: Api) -> None:
    own = adapter()
    who = api.sandbox()
    with sandbox(api, who, adapters=[own]) as peer:
        (made,) = queued(api, own)
        running = peer.start()
    api.post(f"/v1/tasks/{made}/cancel", {"reason": "while away"}).ok(202)
    with sandbox(api, who, adapters=[own], holds={running.assignment_id: "running"}) as peer:
        cancel = peer.expect(Cancel)
        assert (cancel.assignment_ids, cancel.reason) == ([running.assignment_id], "while away")
        peer.finish(running.assignment_id, "cancelled")
    assert api.task(made)["status"] == "CANCELLED"


def test_a_replayed_batch_changes_nothing(api: Api) -> None:
    """A daemon sends again whatever was not acknowledged, after its work may have been recorded."""
    own = adapter()
    who = api.sandbox()
    with sandbox(api, who, adapters=[own]) as peer:
        (made,) = queued(api, own)
        running = peer.start()
        messages = [
            Accepted(assignment_id=running.assignment_id),
            lines(running.assignment_id, "a", "b"),
            lines(running.assignment_id, "c", first=2),
            result(running.assignment_id, text="done"),
        ]
        assert peer.deliver(*messages) == set()
    before = api.activity(made, "task.succeeded")
    with sandbox(api, who, adapters=[own], holds={running.assignment_id: "ended"}) as peer:
        assert peer.welcome.drop == [running.assignment_id]
        assert peer.deliver(*messages[1:]) == set()
    assert [entry["text"] for entry in api.get(f"/v1/tasks/{made}/logs").ok()["logs"]] == ["a", "b", "c"]
    assert api.activity(made) == before


# Stale messages (F03, F30)


@pytest.mark.parametrize("what", ["accepted", "result", "log"])
def test_a_late_message_is_refused_told_and_recorded(server: Server, api: Api, what: str) -> None:
    own = adapter()
    with sandbox(api, adapters=[own], max_concurrency=1) as old:
        (made,) = queued(api, own)
        first = old.start()
        with sandbox(api, adapters=[own], max_concurrency=1) as new:
            with server.connect() as conn:  # its host is known to be dead: see the host's stream
                conn.execute(
                    "update sandboxes set status = 'draining' where sandbox_id = %s", [old.sandbox_id]
                )
            old.finish(first.assignment_id, "lost")
            second = new.start()
            late: Any = {
                "accepted": Accepted(assignment_id=first.assignment_id),
                "result": result(first.assignment_id, text="from the dead"),
                "log": lines(first.assignment_id, "from the dead"),
            }[what]
            assert old.deliver(late) == {first.assignment_id}
            # Somebody who never had it is refused in the same way.
            assert old.deliver(result(second.assignment_id)) == {second.assignment_id}
            shown = api.task(made)
            assert (shown["status"], shown["sandboxId"]) == ("RUNNING", new.sandbox_id)
            assert new.finish(second.assignment_id, text="right") == set()
    assert api.get(f"/v1/tasks/{made}/result").ok()["text"] == "right"
    assert api.get(f"/v1/tasks/{made}/logs").ok()["logs"] == []
    refusals = refused_events(api, made, 2)
    assert len(refusals) == 2
    assert refusals[0]["assignmentId"] == first.assignment_id
    assert refusals[0]["what"].startswith(what)
    assert refusals[0]["sandboxId"] == old.sandbox_id
    assert first.assignment_id in server.log_file.read_text(), "the log says so too"


@pytest.mark.parametrize("whose", ["a mate's", "a stranger's"])
def test_a_sandbox_cannot_act_for_anothers_task(api: Api, other: Api, whose: str) -> None:
    """Whatever it says of an assignment that it was not given, and also when it comes back holding it."""
    own, thief = adapter(), api if whose == "a mate's" else other
    who = thief.sandbox()
    with sandbox(api, adapters=[own]) as victim:
        (made,) = queued(api, own)
        running = victim.start()
        stolen = running.assignment_id
        sent = api.post(f"/v1/tasks/{made}/messages", {"mode": "follow_up", "message": "for its own"}).ok(202)
        spoken = [
            Accepted(assignment_id=stolen), Declined(assignment_id=stolen, reason="mine"), lines(stolen, "planted"),
            TranscriptChunk(assignment_id=stolen, first_entry=0, entries=[
                EntryBody(at_ms=1_760_000_000_000, kind="text", data={"text": "planted"}),
            ]),
            InputState(assignment_id=stolen, message_id=sent["messageId"], state="consumed"),
            result(stolen, text="planted"), result(stolen, "failed"),
        ]  # fmt: skip
        with sandbox(thief, who, adapters=[own]) as peer:
            peer.deliver(*spoken)
        with sandbox(thief, who, adapters=[own], holds={stolen: "running"}) as peer:
            assert peer.welcome.drop == [stolen]
            peer.deliver(*spoken)
        shown = api.task(made)
        assert (shown["status"], shown["sandboxId"]) == ("RUNNING", victim.sandbox_id)
        assert api.get(f"/v1/tasks/{made}/logs").ok()["logs"] == []
        assert api.get(f"/v1/tasks/{made}/transcript").ok()["entries"] == []
        assert api.get(f"/v1/tasks/{made}/messages").ok()["messages"][0]["state"] == "queued"
        assert victim.finish(stolen, text="right") == set()
    assert api.get(f"/v1/tasks/{made}/result").ok()["text"] == "right"


def test_the_end_of_work_that_was_never_accepted_is_refused(api: Api) -> None:
    own = adapter()
    with sandbox(api, adapters=[own]) as peer:
        (made,) = queued(api, own)
        offered = peer.offer()
        assert peer.finish(offered.assignment_id) == {offered.assignment_id}
        assert api.task(made)["status"] == "QUEUED"


# Time-outs


def test_an_offer_that_nobody_accepts_is_withdrawn(quick: Api) -> None:
    own = adapter()
    with sandbox(quick, adapters=[own], max_concurrency=1) as slow, beating(slow):
        (made,) = queued(quick, own)
        offered = slow.offer()
        withdrawn = slow.expect(Cancel)
        assert withdrawn.assignment_ids == [offered.assignment_id]
        again = slow.offer()
        assert (again.task_id, again.attempt) == (made, 1)
        assert again.assignment_id != offered.assignment_id
        assert slow.deliver(Accepted(assignment_id=offered.assignment_id)) == {offered.assignment_id}
        assert slow.deliver(Accepted(assignment_id=again.assignment_id)) == set()
        assert slow.finish(again.assignment_id) == set()
    states = [a["state"] for a in quick.task(made)["attempts"]]
    assert states == ["lost", "succeeded"]


def test_a_silent_sandbox_is_lost_and_a_beating_one_is_not(quick: Api) -> None:
    """F01: the work of a sandbox that is gone goes on elsewhere after `lostAfterS`."""
    own = adapter()
    with sandbox(quick, adapters=[own], max_concurrency=1) as alive:
        (kept,) = queued(quick, own)
        working = alive.start()
        gone_who = quick.sandbox()
        with sandbox(quick, gone_who, adapters=[own], max_concurrency=1) as gone:
            (made,) = queued(quick, own)
            first = gone.start()
        left_s = time.monotonic()

        def is_requeued() -> bool:
            alive.tell(Heartbeat(running=1))
            time.sleep(0.1)
            return quick.task(made)["status"] == "QUEUED"

        wait_until(is_requeued)
        assert 2.0 < time.monotonic() - left_s < 6.0
        ended = quick.task(made)["attempts"][0]
        assert (ended["state"], ended["assignmentId"]) == ("lost", first.assignment_id)
        assert "3 s" in ended["reason"]
        assert quick.task(kept)["status"] == "RUNNING"
        assert alive.finish(working.assignment_id) == set()
        again = alive.start()
        assert again.task_id == made
        with sandbox(quick, gone_who, holds={first.assignment_id: "running"}) as back:
            assert back.welcome.drop == [first.assignment_id]
            assert back.finish(first.assignment_id) == {first.assignment_id}


# Large things


def test_a_definition_too_large_for_a_frame_is_fetched(api: Api) -> None:
    own = adapter()
    who = api.sandbox()
    body = "ä\n" * 80_000
    acceptance = ["x" * 2_000] * 64
    with sandbox(api, who, adapters=[own], max_concurrency=8) as peer:
        big = task("big", own, bodyMarkdown='"' * 262_144, acceptance=acceptance, input={"a": "\x01" * 10_000})
        several = [task(f"t{n}", own, bodyMarkdown=body, acceptance=acceptance) for n in range(5)]
        api.graph(big, *several)
        offered = [peer.offer() for _ in range(6)]
        by_key = {o.task_key: o for o in offered}
        assert by_key["big"].definition is None
        assert all(by_key[f"t{n}"].definition is not None for n in range(5))
        mine = api.as_(who[1])
        path = f"/v1/sandboxes/{who[0]}/assignments/{by_key['big'].assignment_id}"
        fetched = mine.get(path).ok()
        assert fetched["definition"]["bodyMarkdown"] == big["bodyMarkdown"]
        assert fetched["definition"]["acceptance"] == acceptance
        peer.deliver(Accepted(assignment_id=by_key["big"].assignment_id))
        mine.get(path).ok()
        peer.finish(by_key["big"].assignment_id)
        mine.get(path).refused("stale_assignment")


def test_no_frame_to_a_sandbox_is_larger_than_a_mebibyte(api: Api) -> None:
    own = adapter()
    who = api.sandbox()
    with open_stream(api.url, "sandboxes", *who) as ws:
        peer = SandboxPeer(ws, who[0])
        peer.tell(sandbox_hello(who[0], adapters=[own], max_concurrency=40))
        peer.expect(Welcome)
        api.graph(*(task(f"t{n}", own, bodyMarkdown="x" * 100_000) for n in range(40)))
        count = 0
        while count < 40:
            frame = ws.recv(timeout=8)
            assert len(frame) <= 1024 * 1024
            message = msgspec.json.decode(frame, type=Assign | Ack)
            count += len(message.assignments) if isinstance(message, Assign) else 0


# Order


def test_acks_come_after_the_commit_and_in_order(api: Api) -> None:
    own = adapter()
    with sandbox(api, adapters=[own]) as peer:
        (made,) = queued(api, own)
        running = peer.start()
        for n in range(200):
            peer.tell(Batch(first_seq=peer.seq + 1, messages=[lines(running.assignment_id, str(n), first=n)]))
            peer.seq += 1
        seqs: list[int] = []
        while not seqs or seqs[-1] < peer.seq:
            seqs.append(peer.expect(Ack).seq)
            count = len(api.get(f"/v1/tasks/{made}/logs", limit=1000).ok()["logs"])
            assert count >= seqs[-1] - (peer.seq - 200)
        assert seqs == sorted(set(seqs))
