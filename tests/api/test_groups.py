"""Children, groups, waits and signals of running tasks, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from api.caller import Answer, Api, task
from api.peer import SandboxPeer, adapter, sandbox
from embedded_servers import wait_until
from flakes.wire.sandbox_stream import Assignment, Cancel

GRANTS = ["flakes.tasks.spawn", "flakes.groups"]


@dataclass
class Parent:
    """A running task that may spawn, and the sandbox that runs it and its children."""

    api: Api
    mate: Api
    peer: SandboxPeer
    adapter: str
    run: dict[str, Any]
    assignment: Assignment

    def ask(self, operation: str, body: dict[str, Any] | None = None) -> Answer:
        path = f"/v1/sandboxes/{self.peer.sandbox_id}/assignments/{self.assignment.assignment_id}"
        return self.mate.post(f"{path}/operations/{operation}", body or {})

    def spawn(self, *keys: str, operation_id: str = "op", **fields: Any) -> Answer:
        children = [{"taskKey": key, "title": key, "adapter": self.adapter} for key in keys]
        return self.ask("task.spawn", {"operationId": operation_id, "tasks": children} | fields)

    def wait(self, on: dict[str, Any], operation_id: str = "wait", **fields: Any) -> Answer:
        return self.ask("task.wait", {"operationId": operation_id, "on": on} | fields)

    def status(self, key: str) -> str:
        return self.api.get(f"/v1/runs/{self.run['runKey']}/tasks/{key}").ok()["status"]

    def start(self, count: int) -> dict[str, Assignment]:
        """Children that the sandbox takes, by key."""
        return {each.task_key: each for each in (self.peer.start(30) for _ in range(count))}


@pytest.fixture
def parent(api: Api) -> Iterator[Parent]:
    own = adapter()
    who = api.sandbox()
    made = api.graph(task("parent", own, toolGrants=GRANTS, budget={"children": 8}))
    with sandbox(api, who, adapters=[own], max_concurrency=8) as peer:
        yield Parent(api, api.as_(who[1]), peer, own, made["run"], peer.start(30))


def event(parent: Parent, task_id: str, type_: str) -> dict[str, Any]:
    """The data of the first event of a type, once it can be read."""
    found: list[dict[str, Any]] = []

    def seen() -> bool:
        found[:] = [e for e in parent.api.activity(task_id) if e["type"] == type_]
        return bool(found)

    wait_until(seen, 30)
    return found[0]["data"]


def test_a_task_fills_a_group_yields_and_goes_on_when_it_is_done(parent: Parent) -> None:
    opened = parent.ask("group.open", {"groupKey": "drafts", "name": "Drafts"}).ok()
    assert (opened["status"], opened["joinRule"]) == ("OPEN", "all_success")
    spawned = parent.spawn("a", "b", group="drafts").ok()
    assert [child["status"] for child in spawned["children"]] == ["QUEUED", "QUEUED"]
    parent.wait({"kind": "group", "group": "drafts"}).refused("group_open")
    assert parent.ask("group.close", {"group": "drafts"}).ok()["status"] == "CLOSED"
    parent.spawn("c", group="drafts", operation_id="late").refused("group_closed")
    pending = parent.wait({"kind": "group", "group": "drafts"}).ok()
    assert pending["state"] == "pending"
    children = parent.start(2)
    parent.peer.finish(parent.assignment.assignment_id, "retryable")
    assert parent.status("parent") == "WAITING"
    listed = parent.api.get(f"/v1/tasks/{parent.assignment.task_id}", explain=1).ok()
    assert listed["explanation"]["code"] == "wait_pending"
    assert [each["state"] for each in listed["attempts"]] == ["yielded"]
    parent.peer.finish(children["a"].assignment_id, text="one")
    assert parent.status("parent") == "WAITING"
    parent.peer.finish(children["b"].assignment_id)
    again = parent.peer.start(30)
    assert (again.task_key, again.attempt) == ("parent", 1)
    parent.assignment = again
    settled = parent.wait({"kind": "group", "group": "drafts"}).ok()
    assert (settled["state"], settled["verdict"], settled["waitId"]) == ("settled", "SUCCEEDED", pending["waitId"])
    assert parent.ask("task.outputs", {"task": "a"}).ok()["text"] == "one"
    assert [c["status"] for c in parent.ask("task.children", {"group": "drafts"}).ok()["children"]] == ["SUCCEEDED"] * 2
    parent.peer.finish(again.assignment_id)
    event(parent, again.task_id, "task.succeeded")
    types = [e["type"] for e in parent.api.activity(again.task_id)]
    for type_ in ("group.opened", "task.spawned", "group.closed", "task.waiting", "group.settled", "wait.settled"):
        assert type_ in types


def test_spawning_twice_makes_one_set_of_children_and_another_meaning_is_refused(parent: Parent) -> None:
    first = parent.spawn("a", "b").ok()
    assert parent.spawn("a", "b").ok() == first
    parent.spawn("c").refused("operation_conflict")
    parent.spawn("a", operation_id="other").refused("run_conflict")
    unnamed = {"title": "t", "adapter": parent.adapter}
    made = parent.ask("task.spawn", {"operationId": "unnamed", "tasks": [unnamed, unnamed]}).ok()
    assert [child["taskKey"] for child in made["children"]] == ["parent-3", "parent-4"]
    parent.spawn("d", "e", "f", "g", "h", operation_id="more").refused("budget_exhausted")


def test_a_child_gets_no_grant_that_its_parent_lacks(parent: Parent) -> None:
    """F25: subset, or refused whole."""
    body = {"title": "t", "adapter": parent.adapter}
    asked = [body, body | {"toolGrants": ["flakes.tasks.spawn", "flakes.everything"]}]
    refused = parent.ask("task.spawn", {"operationId": "o", "tasks": asked}).refused("grant_required")
    assert refused["grant"] == "flakes.everything"
    assert parent.ask("task.children").ok()["children"] == []
    made = parent.ask("task.spawn", {"operationId": "o", "tasks": [body | {"toolGrants": GRANTS[:1]}]})
    assert len(made.ok()["children"]) == 1


def test_without_the_grant_nothing_is_spawned(api: Api) -> None:
    own = adapter()
    who = api.sandbox()
    made = api.graph(task("parent", own))
    with sandbox(api, who, adapters=[own]) as peer:
        parent = Parent(api, api.as_(who[1]), peer, own, made["run"], peer.start(30))
        assert parent.spawn("a").refused("grant_required")["grant"] == GRANTS[0]
        parent.ask("group.open", {"groupKey": "g"}).refused("grant_required")


def test_a_child_that_would_wait_for_its_parent_is_refused(parent: Parent) -> None:
    child = {"title": "t", "adapter": parent.adapter, "dependsOn": ["parent"]}
    refused = parent.ask("task.spawn", {"operationId": "o", "tasks": [child]}).refused("wait_deadlock")
    assert refused["taskKeys"] == ["parent"]


def test_a_signal_wakes_a_task_that_yielded(parent: Parent) -> None:
    assert parent.wait({"kind": "signal", "name": "go"}).ok()["state"] == "pending"
    parent.peer.finish(parent.assignment.assignment_id, "retryable")
    path = f"/v1/tasks/{parent.assignment.task_id}/signals/go"
    assert parent.api.post(path, {"payload": {"n": 1}}).ok(202)["state"] == "consumed"
    parent.assignment = parent.peer.start(30)
    assert parent.wait({"kind": "signal", "name": "go"}).ok()["payload"] == {"n": 1}
    parent.peer.finish(parent.assignment.assignment_id)
    parent.api.post(path, {"payload": 2}).refused("task_ended")


def test_a_timer_wakes_a_task_that_yielded_and_a_wait_times_out(parent: Parent) -> None:
    assert parent.wait({"kind": "timer", "seconds": 0.5}).ok()["state"] == "pending"
    parent.peer.finish(parent.assignment.assignment_id, "retryable")
    parent.assignment = parent.peer.start(30)
    assert parent.wait({"kind": "timer", "seconds": 0.5}).ok()["state"] == "settled"
    held = parent.wait({"kind": "signal", "name": "never"}, "other", timeoutS=0.3, holdS=25)
    assert held.ok()["state"] == "timed_out"


def test_a_plain_request_for_another_try_is_no_yield(parent: Parent) -> None:
    settled = parent.wait({"kind": "timer", "seconds": 0}).ok()
    assert settled["state"] == "settled"
    parent.peer.finish(parent.assignment.assignment_id, "retryable")
    task_ = parent.api.task(parent.assignment.task_id)
    assert (task_["status"], task_["attempt"]) == ("QUEUED", 2)
    assert [each["state"] for each in task_["attempts"]] == ["failed"]


def test_children_go_with_their_parent_unless_they_are_detached(parent: Parent) -> None:
    parent.ask("group.open", {"groupKey": "g"}).ok()
    parent.spawn("a", group="g").ok()
    parent.spawn("b", operation_id="d", detached=True).ok()
    running = parent.start(2)
    parent.peer.finish(parent.assignment.assignment_id)
    stop = parent.peer.expect(Cancel, timeout_s=30)
    assert stop.assignment_ids == [running["a"].assignment_id]
    parent.peer.finish(running["a"].assignment_id, "cancelled")
    assert (parent.status("a"), parent.status("b")) == ("CANCELLED", "RUNNING")
    (group,) = parent.api.get(f"/v1/tasks/{parent.assignment.task_id}/groups").ok()["groups"]
    assert group["status"] == "ABANDONED"


def test_the_rest_of_a_group_is_cancelled_when_the_first_has_come(parent: Parent) -> None:
    parent.ask("group.open", {"groupKey": "g", "join": "first"}).ok()
    parent.spawn("a", "b", "c", group="g").ok()
    parent.ask("group.close", {"group": "g"}).ok()
    running = parent.start(3)
    parent.peer.finish(running["b"].assignment_id)
    won = parent.wait({"kind": "group", "group": "g"}).ok()
    assert (won["verdict"], won["counts"]["live"]) == ("SUCCEEDED", 2)
    group = parent.ask("group.cancel", {"group": "g"}).ok()
    assert group["status"] == "SUCCEEDED"
    for key in ("a", "c"):
        parent.peer.finish(running[key].assignment_id, "cancelled")
    parent.peer.finish(parent.assignment.assignment_id)
    run = parent.api.get(f"/v1/runs/{parent.run['runKey']}").ok()
    assert run["state"] == "SUCCEEDED", "members of a group do not decide the run"


def test_children_are_drawn_right_of_the_task_that_made_them(parent: Parent) -> None:
    parent.spawn("a", "b").ok()
    run = parent.run["runKey"]
    drawn = parent.api.get(f"/v1/runs/{run}/layout").ok()
    at = {node["taskKeys"][0]: n for n, node in enumerate(drawn["nodes"])}
    edges = {(edge["source"], edge["target"]): edge["spawned"] for edge in drawn["edges"]}
    assert edges == {(at["parent"], at["a"]): True, (at["parent"], at["b"]): True}
    assert parent.api.get(f"/v1/runs/{run}/tasks/a").ok()["parentTaskKey"] == "parent"
    assert "parentTaskKey" not in parent.api.get(f"/v1/runs/{run}/tasks/parent").ok()


def test_a_live_task_takes_prompts_one_after_the_other_and_ends_when_told(parent: Parent) -> None:
    child = {"taskKey": "live", "title": "live", "adapter": parent.adapter, "liveRounds": True}
    made = parent.ask("task.spawn", {"operationId": "o", "tasks": [child]}).ok()["children"][0]
    path = f"/v1/tasks/{made['taskId']}/rounds"
    assert parent.api.get(path).ok() == {"rounds": [], "liveState": "STARTING"}
    live = parent.start(1)["live"]

    def do(operation: str, body: dict[str, Any] | None = None) -> Answer:
        at = f"/v1/sandboxes/{parent.peer.sandbox_id}/assignments/{live.assignment_id}/operations"
        return parent.mate.post(f"{at}/{operation}", body or {})

    prompt = {"operationId": "p1", "task": "live", "prompt": "Draft it."}
    sent = parent.ask("round.send", prompt).ok()
    assert (sent["roundKey"], sent["state"]) == ("round-1", "PROMPTED")
    assert parent.ask("round.send", prompt).ok() == sent
    parent.ask("round.send", prompt | {"prompt": "Another."}).refused("operation_conflict")
    parent.ask("round.send", {"operationId": "p2", "task": "live", "prompt": "Now shorter."}).ok()
    given = do("round.next").ok()["round"]
    assert do("round.next").ok()["round"] == given
    assert given["prompt"] == "Draft it."
    assert parent.api.get(path).ok()["liveState"] == "RUNNING_ROUND"
    on = {"kind": "round", "task": "live", "roundKey": "round-1"}
    assert parent.wait(on).ok()["state"] == "pending"
    parent.peer.finish(parent.assignment.assignment_id, "retryable")
    outputs = {"draft": {"kind": "json", "text": '{"n": 1}'}, "files": {"kind": "workspace", "text": '{"h": 2}'}}
    done = {"roundKey": "round-1", "outputs": outputs, "text": "done"}
    assert do("round.complete", done).ok()["state"] == "COMPLETED"
    do("round.complete", done).ok()
    do("round.complete", done | {"state": "FAILED"}).refused("round_conflict")
    parent.assignment = parent.peer.start(30)
    settled = parent.wait(on).ok()
    assert (settled["state"], settled["verdict"]) == ("settled", "SUCCEEDED")
    read = parent.ask("round.read", {"task": "live", "roundKey": "round-1"}).ok()
    assert read["outputs"]["draft"]["text"] == '{"n": 1}'
    assert parent.api.get(f"{path}/round-1/outputs/draft/fetch").ok(200) == {"n": 1}
    assert parent.api.get(f"{path}/round-1/outputs/files/workspace").ok(200) == {"handle": {"h": 2}}
    assert do("round.next").ok()["round"]["roundKey"] == "round-2"
    do("round.complete", {"roundKey": "round-2", "state": "FAILED"}).ok()
    # Nothing to do: it yields, and a prompt brings it back.
    assert do("round.next").ok() == {}
    parent.peer.finish(live.assignment_id, "retryable")
    assert parent.status("live") == "WAITING"
    told = parent.api.get(f"/v1/tasks/{made['taskId']}", explain=1).ok()["explanation"]
    assert "a prompt of its parent" in told["sentence"]
    parent.ask("round.send", {"operationId": "p3", "task": "live", "prompt": "Last.", "roundKey": "last"}).ok()
    live = parent.peer.start(30)
    assert do("round.next").ok()["round"]["roundKey"] == "last"
    do("round.complete", {"roundKey": "last"}).ok()
    assert parent.ask("round.finish", {"task": "live"}).ok()["liveState"] == "FINISHING"
    parent.ask("round.send", {"operationId": "p4", "task": "live", "prompt": "No."}).refused("round_conflict")
    assert do("round.next").ok() == {"finishing": True}
    parent.peer.finish(live.assignment_id)
    shown = parent.api.get(path).ok()
    assert [each["state"] for each in shown["rounds"]] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "liveState" not in shown


def test_a_live_task_that_nobody_prompts_is_asked_to_end_and_cancelled_when_it_does_not(parent: Parent) -> None:
    """A yielded one is woken and told; it may still end well. One that does not in time is stopped."""
    idle = {"liveRounds": True, "liveIdle": {"afterS": 0.5, "graceS": 0.5}, "title": "live", "adapter": parent.adapter}
    patient = idle | {"liveIdle": {"afterS": 0.5}}
    tasks = [idle | {"taskKey": "lazy"}, patient | {"taskKey": "good"}]
    parent.ask("task.spawn", {"operationId": "o", "tasks": [tasks[0] | {"liveRounds": False}]}).refused("invalid_request")
    parent.ask("task.spawn", {"operationId": "o", "tasks": tasks}).ok()
    running = parent.start(2)

    def next_(key: str) -> dict[str, Any]:
        path = f"/v1/sandboxes/{parent.peer.sandbox_id}/assignments/{running[key].assignment_id}/operations/round.next"
        return parent.mate.post(path, {"holdS": 0.0 if key == "good" else 20.0}).ok()

    assert next_("good") == {}
    parent.peer.finish(running["good"].assignment_id, "retryable")
    running["good"] = parent.peer.start(30)
    assert next_("good") == {"finishing": True}
    parent.peer.finish(running["good"].assignment_id)
    assert next_("lazy") == {"finishing": True}
    prompt = {"operationId": "p", "task": "lazy", "prompt": "Draft it."}
    parent.ask("round.send", prompt).refused("round_conflict")
    stop = parent.peer.expect(Cancel, timeout_s=30)
    assert stop.assignment_ids == [running["lazy"].assignment_id]
    parent.peer.finish(running["lazy"].assignment_id, "cancelled")
    assert (parent.status("good"), parent.status("lazy")) == ("SUCCEEDED", "CANCELLED")
    assert event(parent, running["lazy"].task_id, "round.finishing") == {"idleS": 0.5, "graceS": 0.5}
    # Tried again by hand it takes prompts again.
    parent.api.post(f"/v1/tasks/{running['lazy'].task_id}/retry").ok()
    parent.ask("round.send", prompt).ok()


def test_one_wait_takes_more_children_than_a_page(api: Api) -> None:
    own, who = adapter(), api.sandbox()
    made = api.graph(task("parent", own, toolGrants=GRANTS))
    with sandbox(api, who, adapters=[own]) as peer:
        parent = Parent(api, api.as_(who[1]), peer, own, made["run"], peer.start(30))
        ids: list[str] = []
        for part in range(5):
            tasks = [{"title": "c", "adapter": "nobody"} for _ in range(240)]
            spawned = parent.ask("task.spawn", {"operationId": f"part-{part}", "tasks": tasks}).ok()
            ids += [child["taskId"] for child in spawned["children"]]
        on = {"kind": "children", "tasks": ids, "threshold": 2}
        assert parent.wait(on).ok()["state"] == "pending"
        parent.ask("task.cancel", {"tasks": ids[:2]}).ok()
        told = parent.wait(on).ok()
        assert (told["verdict"], told["counts"]["total"], told["counts"]["cancelled"]) == ("SUCCEEDED", 1200, 2)
        refused = parent.wait({"kind": "children", "tasks": ids * 9}, "too-many").refused("invalid_request")
        assert refused["issues"][0]["path"].startswith("on.tasks")


def test_what_a_live_task_leaves_open_is_over_with_it(parent: Parent) -> None:
    child = {"taskKey": "live", "title": "live", "adapter": parent.adapter, "liveRounds": True}
    parent.ask("task.spawn", {"operationId": "o", "tasks": [child]}).ok()
    parent.ask("round.send", {"operationId": "p", "task": "live", "prompt": "Draft it."}).ok()
    live = parent.start(1)["live"]
    on = {"kind": "round", "task": "live", "roundKey": "round-1"}
    assert parent.wait(on, yields=False).ok()["state"] == "pending"
    parent.peer.finish(live.assignment_id, "failed")
    assert parent.wait(on).ok()["verdict"] == "FAILED"
    parent.ask("round.send", {"operationId": "q", "task": "live", "prompt": "More."}).refused("task_ended")


def test_a_parent_that_is_tried_again_by_hand_finds_its_children_again(parent: Parent) -> None:
    parent.ask("group.open", {"groupKey": "g"}).ok()
    first = parent.spawn("a", "b", group="g").ok()
    parent.ask("group.close", {"group": "g"}).ok()
    running = parent.start(2)
    parent.peer.finish(running["b"].assignment_id)
    assert parent.wait({"kind": "group", "group": "g"}).ok()["state"] == "pending"
    parent.peer.finish(parent.assignment.assignment_id, "failed")
    parent.peer.expect(Cancel, timeout_s=30)
    parent.peer.finish(running["a"].assignment_id, "cancelled")
    assert (parent.status("a"), parent.status("b")) == ("CANCELLED", "SUCCEEDED")
    parent.api.post(f"/v1/tasks/{parent.assignment.task_id}/retry").ok()
    started = parent.start(2)
    assert sorted(started) == ["a", "parent"]
    parent.assignment = started["parent"]
    again = parent.spawn("a", "b", group="g").ok()
    assert [c["taskId"] for c in again["children"]] == [c["taskId"] for c in first["children"]]
    assert parent.ask("group.status", {"group": "g"}).ok()["status"] == "CLOSED"
    assert parent.wait({"kind": "group", "group": "g"}).ok()["state"] == "pending"
    parent.peer.finish(started["a"].assignment_id)
    assert parent.wait({"kind": "group", "group": "g"}).ok()["verdict"] == "SUCCEEDED"


def test_what_can_never_come_is_refused_when_it_is_waited_for(parent: Parent) -> None:
    parent.spawn("bad").ok()
    parent.peer.finish(parent.start(1)["bad"].assignment_id, "failed")
    stuck = {
        "taskKey": "stuck", "title": "s", "adapter": parent.adapter, "dependsOn": ["bad"],
        "dependencyFailurePolicy": "wait",
    }  # fmt: skip
    parent.ask("task.spawn", {"operationId": "stuck", "tasks": [stuck]}).ok()
    refused = parent.wait({"kind": "children", "tasks": ["stuck"]}).refused("wait_stalled")
    assert refused["taskKeys"] == ["stuck"]
    parent.wait({"kind": "children", "join": "quorum", "quorum": 3}).refused("wait_unsatisfiable")
    parent.wait({"kind": "children", "tasks": ["nobody"]}).refused("not_found")
    ended = parent.wait({"kind": "children", "threshold": 1}, "one").ok()
    assert (ended["state"], ended["counts"]["failed"]) == ("settled", 1)
    parent.ask("group.open", {"groupKey": "none", "join": "first"}).ok()
    assert parent.ask("group.close", {"group": "none"}).ok()["status"] == "FAILED"


def blocked(parent: Parent, key: str, *depends_on: str, policy: str = "wait") -> None:
    """A child behind other tasks of the run."""
    child = {"taskKey": key, "title": key, "adapter": parent.adapter, "dependsOn": depends_on}
    body = {"operationId": key, "tasks": [child | {"dependencyFailurePolicy": policy}]}
    parent.ask("task.spawn", body).ok()


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_wait_that_loses_its_last_hope_wakes_who_waits(parent: Parent, how: str) -> None:
    """What it waits for is blocked for good only after it has begun to wait."""
    parent.spawn("first").ok()
    blocked(parent, "second", "first")
    blocked(parent, "third", "second")
    on = {"kind": "children", "tasks": ["third"]}
    assert parent.wait(on).ok()["state"] == "pending"
    first = parent.start(1)["first"]
    parent.peer.finish(parent.assignment.assignment_id, "retryable")
    assert parent.status("parent") == "WAITING"
    parent.peer.finish(first.assignment_id, how)
    parent.assignment = parent.peer.start(30)
    told = parent.wait(on).ok()
    assert (told["state"], told["verdict"], told["stalled"]) == ("settled", "FAILED", ["second", "third"])
    parent.wait(on, "again").refused("wait_stalled")
    assert event(parent, parent.assignment.task_id, "wait.settled")["stalled"] == ["second", "third"]
    # Somebody helps: what they depend on is tried again.
    parent.api.post(f"/v1/tasks/{first.task_id}/retry").ok()
    assert parent.wait(on, "more").ok()["state"] == "pending"


def test_a_wait_for_a_group_goes_on_while_one_member_may_end(parent: Parent) -> None:
    parent.spawn("bad").ok()
    parent.peer.finish(parent.start(1)["bad"].assignment_id, "failed")
    parent.ask("group.open", {"groupKey": "g", "join": "all_settled"}).ok()
    parent.spawn("works", operation_id="w", group="g").ok()
    stuck = {
        "taskKey": "stuck", "title": "s", "adapter": parent.adapter, "dependsOn": ["bad"], "dependencyFailurePolicy": "wait",
    }  # fmt: skip
    parent.ask("task.spawn", {"operationId": "s", "group": "g", "tasks": [stuck]}).ok()
    parent.ask("group.close", {"group": "g"}).ok()
    on = {"kind": "group", "group": "g"}
    assert parent.wait(on, holdS=0, yields=False).ok()["state"] == "pending"
    parent.peer.finish(parent.start(1)["works"].assignment_id)
    assert parent.wait(on).ok()["stalled"] == ["stuck"]
    assert parent.ask("group.status", {"group": "g"}).ok()["status"] == "CLOSED"


def other(parent: Parent) -> Parent:
    """Another task of the run's graph that runs beside the parent."""
    more = task("other", parent.adapter, toolGrants=GRANTS)
    body = {"name": parent.run["name"], "projectKey": parent.run["projectKey"], "tasks": [more]}
    parent.api.post(f"/v1/runs/{parent.run['runKey']}/graph", body).ok()
    return Parent(parent.api, parent.mate, parent.peer, parent.adapter, parent.run, parent.peer.start(30))


def test_two_tasks_that_would_wait_for_each_other_are_told(parent: Parent) -> None:
    """The second one that asks: each waits for a child that depends on the other."""
    second = other(parent)
    blocked(parent, "of-parent", "other")
    blocked(second, "of-other", "parent")
    assert parent.wait({"kind": "children", "tasks": ["of-parent"]}).ok()["state"] == "pending"
    parent.peer.finish(parent.assignment.assignment_id, "retryable")
    assert parent.status("parent") == "WAITING"
    refused = second.wait({"kind": "children", "tasks": ["of-other"]}).refused("wait_deadlock")
    assert refused["taskKeys"] == ["of-other", "of-parent"]


def test_a_circle_of_waits_that_closes_with_a_yield_is_noticed(parent: Parent) -> None:
    second = other(parent)
    blocked(parent, "of-parent", "other")
    blocked(second, "of-other", "parent")
    assert parent.wait({"kind": "children", "tasks": ["of-parent"]}).ok()["state"] == "pending"
    on = {"kind": "children", "tasks": ["of-other"]}
    assert second.wait(on).ok()["state"] == "pending"
    parent.peer.finish(parent.assignment.assignment_id, "retryable")
    second.peer.finish(second.assignment.assignment_id, "retryable")
    second.assignment = parent.peer.start(30)
    assert second.assignment.task_key == "other"
    assert second.wait(on).ok()["stalled"] == ["of-other", "of-parent"]


def test_another_meaning_under_the_same_name_is_refused(parent: Parent) -> None:
    parent.ask("group.open", {"groupKey": "g"}).ok()
    parent.ask("group.open", {"groupKey": "g", "join": "first"}).refused("operation_conflict")
    parent.ask("group.open", {"groupKey": "q", "join": "quorum"}).refused("invalid_request")
    parent.wait({"kind": "timer", "seconds": 60}).ok()
    parent.wait({"kind": "timer", "seconds": 61}).refused("operation_conflict")
