"""What running tasks ask for, over HTTP: the fence around it, workpads, and file reservations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from api.caller import Answer, Api, task
from api.following import following
from api.peer import SandboxPeer, adapter, sandbox
from api.plane import Server
from api.routes import OPERATION_BODIES
from embedded_servers import wait_until
from flakes.core.limits import WORKPAD_SIZE_BYTES_MAX
from flakes.wire.sandbox_stream import Accepted, Assignment


@dataclass
class Running:
    """A run of tasks that one connected sandbox works on."""

    api: Api
    peer: SandboxPeer
    mate: Api
    """The sandbox's own credential."""
    run: dict[str, Any]
    assignments: dict[str, Assignment]

    def ask(self, key: str, operation: str, body: Any = None) -> Answer:
        assignment_id = self.assignments[key].assignment_id
        return ask(self.mate, self.peer.sandbox_id, assignment_id, operation, body)

    def reserve(self, key: str, *paths: str, kind: str = "exact", **fields: Any) -> Answer:
        selectors = [{"path": path, "kind": kind} for path in paths]
        return self.ask(key, "files.reserve", {"selectors": selectors, **fields})

    def reservations(self, **query: Any) -> list[tuple[str, str, str]]:
        listed = self.api.get(f"/v1/runs/{self.run['runKey']}/file-reservations", **query).ok()
        return [(r["path"], r["kind"], r["taskKey"]) for r in listed["reservations"]]


def ask(mate: Api, sandbox_id: str, assignment_id: str, operation: str, body: Any = None) -> Answer:
    path = f"/v1/sandboxes/{sandbox_id}/assignments/{assignment_id}/operations/{operation}"
    return mate.post(path, {} if body is None else body)


@pytest.fixture
def running(api: Api) -> Iterator[Running]:
    """Two tasks, `one` and `two`, both running."""
    own = adapter()
    who = api.sandbox()
    made = api.graph(task("one", own), task("two", own))
    with sandbox(api, who, adapters=[own]) as peer:
        assignments = {a.task_key: a for a in (peer.start(), peer.start())}
        yield Running(api, peer, api.as_(who[1]), made["run"], assignments)


def refusals(api: Api, task_id: str) -> list[dict[str, Any]]:
    return [e["data"] for e in api.activity(task_id) if e["type"] == "attempt.refused"]


def count(server: Server, table: str, task_id: str) -> int:
    with server.connect() as conn:
        found = conn.execute(f"select count(*) from {table} where task_id = %s", [task_id]).fetchone()  # type: ignore[arg-type]
    assert found is not None
    return found[0]


# ---- the fence


@pytest.mark.parametrize("operation", OPERATION_BODIES)
def test_a_superseded_attempt_is_refused_changes_nothing_and_is_noted(
    server: Server, running: Running, operation: str
) -> None:
    """F03, F30: refused as stale, with an entry of the activity and a line in the log."""
    ended = running.assignments["one"]
    running.peer.finish(ended.assignment_id)
    before = running.api.task(ended.task_id)
    running.ask("one", operation, OPERATION_BODIES[operation]).refused("stale_assignment")
    wait_until(lambda: bool(refusals(running.api, ended.task_id)))
    expected = {"assignmentId": ended.assignment_id, "what": operation, "sandboxId": running.peer.sandbox_id}
    assert refusals(running.api, ended.task_id) == [expected]
    assert running.api.task(ended.task_id) == before
    assert count(server, "workpads", ended.task_id) == count(server, "file_reservations", ended.task_id) == 0
    log = server.log_file.read_text()
    assert any("operation.refused" in line and ended.assignment_id in line for line in log.splitlines())


def test_an_offer_is_not_yet_the_right_to_act(api: Api) -> None:
    own = adapter()
    who = api.sandbox()
    api.graph(task("only", own))
    with sandbox(api, who, adapters=[own]) as peer:
        offered = peer.offer()
        mate = api.as_(who[1])
        ask(mate, who[0], offered.assignment_id, "workpad.read").refused("stale_assignment")
        peer.deliver(Accepted(assignment_id=offered.assignment_id))
        ask(mate, who[0], offered.assignment_id, "workpad.read").ok()


@pytest.mark.parametrize("operation", OPERATION_BODIES)
def test_another_sandbox_of_the_owner_may_not_act_for_the_task(
    running: Running, operation: str
) -> None:
    """F26: neither with its own address nor with that of the sandbox that runs the task."""
    other_id, token = running.api.sandbox()
    other = running.api.as_(token)
    assignment = running.assignments["one"]
    body = OPERATION_BODIES[operation]
    ask(other, other_id, assignment.assignment_id, operation, body).refused("stale_assignment")
    ask(other, running.peer.sandbox_id, assignment.assignment_id, operation, body).refused("forbidden")
    wait_until(lambda: bool(refusals(running.api, assignment.task_id)))
    assert running.api.get(f"/v1/tasks/{assignment.task_id}/workpad").ok()["version"] == 0
    assert running.reservations() == []


def test_a_stranger_leaves_no_trace_in_another_accounts_activity(running: Running, other: Api) -> None:
    other_id, token = other.sandbox()
    assignment = running.assignments["one"]
    ask(other.as_(token), other_id, assignment.assignment_id, "workpad.read").refused("stale_assignment")
    running.ask("one", "workpad.save", {"bodyMarkdown": "x", "baseVersion": 0}).ok()
    wait_until(lambda: any(e["type"] == "workpad.updated" for e in running.api.activity(assignment.task_id)))
    assert refusals(running.api, assignment.task_id) == []


def test_an_operation_that_does_not_exist_is_not_found(running: Running) -> None:
    running.ask("one", "workpad.erase").refused("not_found")


# ---- workpads


def test_a_workpad_begins_empty_and_keeps_every_version(running: Running) -> None:
    assignment = running.assignments["one"]
    path = f"/v1/tasks/{assignment.task_id}/workpad"
    empty = running.api.get(path).ok()
    assert empty == {"taskId": assignment.task_id, "version": 0, "bodyMarkdown": ""}
    first = running.ask("one", "workpad.save", {"bodyMarkdown": "# Plan\r\n\u00fc \U0001f600", "baseVersion": 0}).ok()
    assert first["author"] == {"kind": "assignment", "assignmentId": assignment.assignment_id}
    me = running.api.get("/v1/me").ok()["userId"]
    second = running.api.put(path, {"bodyMarkdown": "# Better plan", "baseVersion": 1}).ok(200)
    assert (second["version"], second["author"]) == (2, {"kind": "user", "userId": me})
    assert running.ask("one", "workpad.read").ok() == running.api.get(path).ok() == second
    assert running.api.get(f"{path}/versions/1").ok() == first
    assert running.api.get(f"{path}/versions/0").ok() == empty
    for nothing in ("3", "-1", "x", "1.0", "99999999999999999999"):
        running.api.get(f"{path}/versions/{nothing}").refused("not_found")
    listed = running.api.get(f"{path}/versions", limit=1).ok()
    assert [v["version"] for v in listed["versions"]] == [2]
    rest = running.api.get(f"{path}/versions", limit=1, cursor=listed["nextCursor"]).ok()
    assert [(v["version"], v["sizeBytes"]) for v in rest["versions"]] == [(1, len("# Plan\r\n\u00fc \U0001f600".encode()))]
    assert "bodyMarkdown" not in rest["versions"][0]
    last = running.api.get(f"{path}/versions", limit=1, cursor=rest["nextCursor"]).ok()
    assert (last["versions"], last["nextCursor"]) == ([], None)
    running.api.get(f"{path}/versions", cursor="x").refused("invalid_request")


def test_a_save_from_an_old_version_is_refused_with_the_current_one(running: Running) -> None:
    assignment = running.assignments["one"]
    path = f"/v1/tasks/{assignment.task_id}/workpad"
    theirs = running.api.put(path, {"bodyMarkdown": "theirs", "baseVersion": 0}).ok()
    body = {"bodyMarkdown": "mine", "baseVersion": 0}
    refused = running.ask("one", "workpad.save", body).refused("workpad_version_conflict")
    assert refused["current"] == theirs
    assert running.api.put(path, body).refused("workpad_version_conflict")["current"] == theirs
    assert running.api.get(path).ok() == theirs
    assert running.ask("one", "workpad.save", body | {"baseVersion": 1}).ok()["version"] == 2


def test_the_size_is_limited_in_bytes(running: Running) -> None:
    assignment = running.assignments["one"]
    path = f"/v1/tasks/{assignment.task_id}/workpad"
    full = "\u00fc" * (WORKPAD_SIZE_BYTES_MAX // 2)
    for refused in (
        running.api.put(path, {"bodyMarkdown": full + "x", "baseVersion": 0}),
        running.ask("one", "workpad.save", {"bodyMarkdown": full + "x", "baseVersion": 0}),
    ):
        assert refused.refused("workpad_too_large")["limit"] == WORKPAD_SIZE_BYTES_MAX
    assert running.ask("one", "workpad.save", {"bodyMarkdown": full, "baseVersion": 0}).ok()["version"] == 1
    escaped = "\x01" * WORKPAD_SIZE_BYTES_MAX
    assert running.ask("one", "workpad.save", {"bodyMarkdown": escaped, "baseVersion": 1}).ok()["version"] == 2
    running.api.put(path, {"bodyMarkdown": "\0", "baseVersion": 2}).refused("invalid_request")
    assert running.api.get(path).ok()["bodyMarkdown"] == escaped


def test_a_workpad_may_be_written_before_and_after_the_task(api: Api) -> None:
    run = api.run()["runKey"]
    saved = api.put(f"/v1/runs/{run}/tasks/t", task("t")).ok(201)
    path = f"/v1/tasks/{saved['taskId']}/workpad"
    assert api.put(path, {"bodyMarkdown": "notes", "baseVersion": 0}).ok()["version"] == 1
    api.post(f"/v1/tasks/{saved['taskId']}/cancel", {}).ok()
    assert api.put(path, {"bodyMarkdown": "why", "baseVersion": 1}).ok()["version"] == 2


def test_lists_show_the_version_and_the_activity_who_wrote(running: Running) -> None:
    assignment = running.assignments["one"]
    with following(running.api, runId=running.run["runId"], types="workpad.updated") as stream:
        running.ask("one", "workpad.save", {"bodyMarkdown": "text", "baseVersion": 0}).ok()
        event = stream.next()
    running.api.put(f"/v1/tasks/{assignment.task_id}/workpad", {"bodyMarkdown": "t", "baseVersion": 1}).ok()
    assert event.event == "workpad.updated"
    listed = running.api.get(f"/v1/runs/{running.run['runKey']}/tasks").ok()["tasks"]
    pads = {t["taskKey"]: t["workpad"] for t in listed}
    assert (pads["one"]["version"], pads["two"]["version"]) == (2, 0)
    assert pads["one"]["updatedAt"]
    assert running.api.task(assignment.task_id)["workpad"] == pads["one"]

    def written() -> list[dict[str, Any]]:
        events = running.api.activity(assignment.task_id)
        return [e["data"] for e in events if e["type"] == "workpad.updated"]

    wait_until(lambda: len(written()) == 2)
    me = running.api.get("/v1/me").ok()["userId"]
    assert written() == [
        {"version": 1, "sizeBytes": 4, "author": {"kind": "assignment", "assignmentId": assignment.assignment_id}},
        {"version": 2, "sizeBytes": 1, "author": {"kind": "user", "userId": me}},
    ]


# ---- file reservations


def test_a_reservation_keeps_other_tasks_out_and_says_who_and_why(running: Running) -> None:
    held = running.reserve("one", "./src//parser/", kind="prefix", reason="rewriting").ok()["reservations"]
    assert [(r["path"], r["kind"], r["reason"], r["assignmentId"]) for r in held] == [
        ("src/parser", "prefix", "rewriting", running.assignments["one"].assignment_id)
    ]
    refused = running.reserve("two", "docs/a", "src/parser/x.py").refused("file_reservation_conflict")
    assert refused["conflicts"] == [
        {"path": "src/parser", "kind": "prefix", "reason": "rewriting", "taskKey": "one", "selector": "src/parser/x.py"}
    ]
    running.reserve("two", "src", kind="prefix").refused("file_reservation_conflict")
    assert running.reservations() == [("src/parser", "prefix", "one")]
    running.reserve("two", "src/parser.py", "docs/a").ok()
    assert running.reservations() == [
        ("docs/a", "exact", "two"), ("src/parser", "prefix", "one"), ("src/parser.py", "exact", "two"),
    ]  # fmt: skip
    checked = running.ask("two", "files.check", {"selectors": [{"path": "src/parser/y"}]}).ok()
    assert (checked["free"], checked["conflicts"][0]["taskKey"]) == (False, "one")
    assert running.ask("one", "files.check", {"selectors": [{"path": "src/parser/y"}]}).ok()["free"] is True
    mine = running.ask("two", "files.list").ok()["reservations"]
    assert [r["path"] for r in mine] == ["docs/a", "src/parser.py"]
    released = running.ask("one", "files.release", {"all": True}).ok()["released"]
    assert released == [{"path": "src/parser", "kind": "prefix"}]
    running.reserve("two", "src", kind="prefix").ok()


@pytest.mark.parametrize("path", ["", ".", "/etc/passwd", "..", "a/../b", "a\nb", "x" * 1_025])
def test_what_is_no_logical_path_is_refused_by_its_place(running: Running, path: str) -> None:
    refused = running.reserve("one", "good", path).refused("invalid_request")
    assert refused["issues"][0]["path"].startswith("selectors[1]")
    assert running.reservations() == []


def test_too_many_selectors_are_refused_with_the_limit(running: Running) -> None:
    refused = running.reserve("one", *(f"f/{n}" for n in range(257))).refused("limit_exceeded")
    assert refused["limit"] == 256
    assert len(running.reserve("one", *(f"f/{n}" for n in range(256))).ok()["reservations"]) == 256
    running.ask("one", "files.reserve", {"selectors": []}).refused("invalid_request")
    running.ask("one", "files.release", {}).refused("invalid_request")
    running.ask("one", "files.release", {"all": True, "selectors": [{"path": "a"}]}).refused("invalid_request")
    pages, cursor = [], None
    while True:
        query = {"limit": 100} | ({"cursor": cursor} if cursor else {})
        page = running.api.get(f"/v1/runs/{running.run['runId']}/file-reservations", **query).ok()
        pages += [r["path"] for r in page["reservations"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert pages == sorted(f"f/{n}" for n in range(256))


def test_reservations_end_with_the_attempt_and_the_activity_says_so(running: Running) -> None:
    one = running.assignments["one"]
    running.reserve("one", "a", "b", reason="now").ok()
    running.peer.finish(one.assignment_id)
    assert running.reservations() == []
    running.reserve("two", "a").ok()

    def told() -> list[dict[str, Any]]:
        events = running.api.activity(one.task_id)
        return [e["data"] | {"type": e["type"]} for e in events if e["type"].startswith("files.")]

    wait_until(lambda: len(told()) == 2)
    reserved, released = told()
    assert (reserved["type"], reserved["count"], reserved["reason"]) == ("files.reserved", 2, "now")
    assert (released["type"], released["count"], released["because"]) == ("files.released", 2, "ended")


def test_a_lost_attempt_loses_its_reservations(quick: Api) -> None:
    """F01, F07: the sandbox falls silent; its paths come free with its slot."""
    own = adapter()
    who = quick.sandbox()
    made = quick.graph(task("only", own))
    with sandbox(quick, who, adapters=[own]) as peer:
        held = peer.start()
        body = {"selectors": [{"path": "a"}]}
        ask(quick.as_(who[1]), who[0], held.assignment_id, "files.reserve", body).ok()
    path = f"/v1/runs/{made['run']['runId']}/file-reservations"
    assert len(quick.get(path).ok()["reservations"]) == 1
    wait_until(lambda: quick.get(path).ok()["reservations"] == [], 30)
    assert quick.task(held.task_id)["status"] == "QUEUED"
    ask(quick.as_(who[1]), who[0], held.assignment_id, "files.list").refused("stale_assignment")


def test_many_at_once_are_served_in_moments(api: Api) -> None:
    """F16: thirty-two tasks of one run reserve, save and release at the same time."""
    own = adapter()
    who = api.sandbox()
    made = api.graph(*(task(f"t-{n}", own) for n in range(32)))
    with sandbox(api, who, adapters=[own], max_concurrency=32) as peer:
        mate = api.as_(who[1])
        started = [peer.start() for _ in range(32)]

        def work(assignment: Assignment) -> None:
            def do(operation: str, body: Any) -> None:
                ask(mate, who[0], assignment.assignment_id, operation, body).ok()

            do("files.reserve", {"selectors": [{"path": f"d/{assignment.task_key}", "kind": "prefix"}]})
            do("workpad.save", {"bodyMarkdown": "x", "baseVersion": 0})
            do("files.release", {"all": True})

        began_s = time.monotonic()
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(work, started))
        took_s = time.monotonic() - began_s
    listed = api.get(f"/v1/runs/{made['run']['runId']}/tasks").ok()["tasks"]
    assert {t["workpad"]["version"] for t in listed} == {1}
    assert took_s < 20, f"{took_s:.1f} s for 96 operations"


# ---- journals


def test_a_journal_holds_large_entries_and_is_the_tasks_own(running: Running) -> None:
    small, large = '{"k": "start"}', '{"k": "' + "x" * 200_000 + '"}'
    assert running.ask("one", "journal.append", {"at": 0, "entries": [small, large]}).ok() == {"length": 2}
    assert running.ask("one", "journal.append", {"at": 1, "entries": [large]}).ok() == {"length": 2}
    assert running.ask("one", "journal.read", {"after": 0}).ok() == {"entries": [small, large], "more": False}
    assert running.ask("two", "journal.read").ok() == {"entries": [], "more": False}
    running.ask("one", "journal.append", {"at": 0, "entries": [large]}).refused("journal_conflict")


def overlaps_of(running: Running) -> list[tuple[str, str, str, list[str]]]:
    found = running.api.get(f"/v1/runs/{running.run['runKey']}/workspaces").ok()["overlaps"]
    return sorted((o["taskKey"], o["otherTaskKey"], o["how"], o["paths"]) for o in found)


def changing(running: Running, key: str, *paths: str) -> dict[str, Any]:
    return running.ask(key, "workspace.changing", {"paths": list(paths)}).ok()


def test_tasks_that_change_the_same_files_are_told_of_once(running: Running) -> None:
    assert changing(running, "one", "src/a.py", "b.txt") == {"fresh": [], "alone": False}
    fresh = changing(running, "two", "src/a.py", "c.txt")["fresh"]
    assert [(o["taskKey"], o["how"], o["paths"]) for o in fresh] == [("one", "changed", ["src/a.py"])]
    # The same again is no news, from neither side; another path is.
    assert changing(running, "two", "src/a.py", "c.txt", "d.txt")["fresh"] == []
    assert changing(running, "one", "src/a.py", "b.txt")["fresh"] == []
    assert changing(running, "one", "src/a.py", "b.txt", "c.txt")["fresh"][0]["paths"] == ["c.txt"]
    ((_, _, how, paths),) = overlaps_of(running)
    assert (how, paths) == ("changed", ["c.txt", "src/a.py"])
    told = [
        (event["taskKey"], event["data"]["otherTaskKey"], event["data"]["paths"])
        for each in running.assignments.values()
        for event in running.api.get(f"/v1/tasks/{each.task_id}/activity").ok()["events"]
        if event["type"] == "workspace.overlap"
    ]
    assert sorted(told) == [("one", "two", ["c.txt"]), ("two", "one", ["src/a.py"])]
    for key, other in (("one", "two"), ("two", "one")):
        why = running.api.explained(running.assignments[key].task_id)
        assert why["code"] == "running"
        assert f"it and {other} have changed the same files: c.txt, src/a.py" in why["sentence"]
    # Of an attempt that has ended nothing is changing any more.
    running.peer.finish(running.assignments["one"].assignment_id)
    assert changing(running, "two", "b.txt") == {"fresh": [], "alone": True}
    changing_refused = running.ask("one", "workspace.changing", {"paths": []})
    changing_refused.refused("stale_assignment")
    running.peer.finish(running.assignments["two"].assignment_id)


def test_what_is_reserved_and_what_is_changed_meet_from_either_side(running: Running) -> None:
    running.reserve("one", "src", kind="prefix").ok()
    fresh = changing(running, "two", "src/deep/a.py", "srcs.txt")["fresh"]
    assert [(o["taskKey"], o["how"], o["paths"]) for o in fresh] == [("one", "reserved", ["src/deep/a.py"])]
    assert changing(running, "two", "src/deep/a.py", "srcs.txt", "x.txt")["fresh"] == []
    # Reserved after it was changed; one's own reservations are nobody's trouble.
    running.reserve("two", "srcs.txt").ok()
    running.reserve("one", "x.txt").ok()
    assert overlaps_of(running) == [("two", "one", "reserved", ["src/deep/a.py", "x.txt"])]
    checked = running.ask("one", "files.check", {"selectors": [{"path": "src", "kind": "prefix"}]}).ok()
    assert checked["free"]
    assert [(c["path"], c["taskKey"]) for c in checked["changing"]] == [("src/deep/a.py", "two")]


def test_two_that_report_at_once_find_each_other(running: Running) -> None:
    with ThreadPoolExecutor(2) as pool:
        for number in range(20):
            path = f"f{number}"
            both = pool.map(lambda key, path=path: changing(running, key, path), ("one", "two"))
            assert sum(len(each["fresh"]) for each in both) == 1, number
