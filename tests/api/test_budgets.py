"""Budgets that tasks share, against the real server: slices, what others spend, the question, and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from api.caller import Answer, Api, task
from api.peer import SandboxPeer, adapter, sandbox
from flakes.wire.sandbox_stream import Assignment, TranscriptChunk
from flakes.wire.transcripts import AgentUsage, EntryBody


@dataclass
class Attempt:
    """One running attempt, asking through its sandbox's own credential."""

    mate: Api
    peer: SandboxPeer
    assignment: Assignment
    told: int = 0

    @property
    def id(self) -> str:
        return self.assignment.assignment_id

    def ask(self, operation: str, body: dict[str, Any]) -> Answer:
        path = f"/v1/sandboxes/{self.peer.sandbox_id}/assignments/{self.id}/operations/{operation}"
        return self.mate.post(path, body)

    def reserve(self, tokens: int = 0, **more: Any) -> dict[str, Any]:
        return self.ask("budget.reserve", {"tokens": tokens, **more}).ok()

    def spend(self, usage: AgentUsage) -> None:
        entry = EntryBody(at_ms=1_700_000_000_000, kind="usage", data={})
        self.peer.deliver(TranscriptChunk(assignment_id=self.id, first_entry=self.told, entries=[entry], usage=usage))
        self.told += 1

    def question(self, name: str, **details: Any) -> str:
        body = {"operationId": name, "prompt": "More?", "action": "extend", "details": details}
        return self.ask("permission.ask", body).ok()["permissionRequestId"]


def answer(api: Api, attempt: Attempt, permission_id: str, decision: str) -> None:
    path = f"/v1/tasks/{attempt.assignment.task_id}/permissions/{permission_id}/respond"
    api.post(path, {"decision": decision}).ok()


def test_attempts_share_the_budget_of_their_run(api: Api) -> None:
    own, who = adapter(), api.sandbox()
    made = api.graph(task("one", own), task("two", own), task("three", own), budget={"tokens": 1000})
    run_id = made["run"]["runId"]
    with sandbox(api, who, adapters=[own]) as peer:
        one, two, three = (Attempt(api.as_(who[1]), peer, peer.start()) for _ in range(3))
        assert one.assignment.shares_budgets
        assert one.reserve() == {"tokens": 250}
        assert two.reserve() == {"tokens": 187}
        assert one.reserve(250) == {"tokens": 250 + 140}
        # What is spent beyond a slice counts, and so do attempts that have ended; what they did not spend does not.
        one.spend(AgentUsage(input_total=500, output=300))
        peer.finish(one.id)
        assert two.reserve(100)["tokens"] == 100 + 25
        two.spend(AgentUsage(input_total=200))
        assert two.reserve(200) == {
            "tokens": 200,
            "shortage": {"scope": "run", "scopeId": run_id, "key": made["run"]["runKey"], "bound": "tokens",
                         "spent": 1000, "limit": 1000},
        }  # fmt: skip
        assert three.reserve()["shortage"]["spent"] == 1000

        # Denied it stays so; approved there is as much again, once, whoever asks about the same bound.
        details = {"budget": "tokens", "scope": "run", "scopeId": run_id, "spent": 1000, "limit": 1000}
        denied, approved = two.question("a", **details), two.question("b", **details)
        also = three.question("c", **details)
        two.ask("budget.extend", {"permissionRequestId": approved}).refused("not_found")
        answer(api, two, denied, "denied")
        two.ask("budget.extend", {"permissionRequestId": denied}).refused("not_found")
        answer(api, two, approved, "approved")
        three.ask("budget.extend", {"permissionRequestId": approved}).refused("not_found")
        for _ in range(2):
            assert two.ask("budget.extend", {"permissionRequestId": approved}).ok() == {"bound": "tokens", "limit": 2000}
        answer(api, three, also, "approved")
        assert three.ask("budget.extend", {"permissionRequestId": also}).ok()["limit"] == 2000
        assert "shortage" not in two.reserve(200)
        found = api.activity(two.assignment.task_id, "budget.extended")
        (event,) = [each for each in found if each["type"] == "budget.extended"]
        assert (event["data"]["limit"], event["data"]["scopeId"]) == (2000, run_id)

        peer.finish(two.id)
        two.ask("budget.reserve", {}).refused("stale_assignment")


def test_money_and_time_are_bounded_alike(api: Api) -> None:
    own, who = adapter(), api.sandbox()
    api.graph(task("one", own), task("two", own), budget={"costMicroUsd": 100, "wallMs": 4000})
    with sandbox(api, who, adapters=[own]) as peer:
        one, two = (Attempt(api.as_(who[1]), peer, peer.start()) for _ in range(2))
        one.spend(AgentUsage(input_total=5, cost_micro_usd=60, worked_ms=3000))
        assert one.reserve(5, costMicroUsd=60, wallMs=3000) == {"costMicroUsd": 70, "wallMs": 3250}
        assert two.reserve() == {"costMicroUsd": 7, "wallMs": 187}
        peer.finish(one.id)
        assert two.reserve(costMicroUsd=40, wallMs=0)["shortage"]["bound"] == "costMicroUsd"


def test_without_a_budget_nothing_is_bounded(api: Api) -> None:
    own, who = adapter(), api.sandbox()
    api.graph(task("one", own))
    with sandbox(api, who, adapters=[own]) as peer:
        one = Attempt(api.as_(who[1]), peer, peer.start())
        assert not one.assignment.shares_budgets
        assert one.reserve(10**9) == {}
        one.ask("budget.reserve", {"tokens": -1}).refused("invalid_request")


def test_what_was_added_to_a_tasks_own_budget_holds_for_later_attempts(api: Api) -> None:
    own, who = adapter(), api.sandbox()
    made = api.graph(task("one", own, budget={"tokens": 100}, retry={"maxAttempts": 2, "backoffS": 0}))
    task_id = made["tasks"][0]["taskId"]
    with sandbox(api, who, adapters=[own]) as peer:
        first = Attempt(api.as_(who[1]), peer, peer.start())
        first.spend(AgentUsage(input_total=120, worked_ms=7))
        details = {"budget": "tokens", "scope": "task", "scopeId": task_id, "spent": 120, "limit": 100}
        permission = first.question("a", **details)
        elsewhere = first.question("b", **(details | {"scopeId": "task_of_somebody_else"}))
        for each in (permission, elsewhere):
            answer(api, first, each, "approved")
        first.ask("budget.extend", {"permissionRequestId": elsewhere}).refused("not_found")
        assert first.ask("budget.extend", {"permissionRequestId": permission}).ok()["limit"] == 220
        peer.finish(first.id, "retryable")
        second = peer.start()
        assert second.extended == {"tokens": 120}
        assert second.spent is not None
        assert (second.spent.tokens, second.spent.worked_ms) == (120, 7)
    assert api.get(f"/v1/tasks/{task_id}").ok()["usage"]["workedMs"] == 7


def test_a_task_and_those_below_it_share_its_budget(api: Api) -> None:
    own, who = adapter(), api.sandbox()
    parent = task("parent", own, budget={"tokens": 1000, "children": 3}, toolGrants=["flakes.tasks.spawn"])
    made = api.graph(parent, task("beside", "nobody"), budget={"children": 4})
    parent_id = made["tasks"][0]["taskId"]

    def spawn(attempt: Attempt, name: str, count: int) -> Answer:
        children = [{"title": f"{name} {n}", "adapter": own, "toolGrants": ["flakes.tasks.spawn"]} for n in range(count)]
        return attempt.ask("task.spawn", {"operationId": name, "tasks": children})

    with sandbox(api, who, adapters=[own]) as peer:
        above = Attempt(api.as_(who[1]), peer, peer.start())
        assert above.assignment.shares_budgets
        assert above.reserve() == {"tokens": 250}
        above.spend(AgentUsage(input_total=100))
        spawn(above, "a", 1).ok()
        below = Attempt(api.as_(who[1]), peer, peer.start())
        assert below.assignment.shares_budgets
        assert below.reserve() == {"tokens": 187}
        below.spend(AgentUsage(input_total=700))
        peer_below = spawn(below, "b", 1).ok()
        assert len(peer_below["children"]) == 1
        deepest = Attempt(api.as_(who[1]), peer, peer.start())
        short = deepest.reserve(60)["shortage"]
        assert (short["scope"], short["scopeId"], short["key"], short["limit"]) == ("tree", parent_id, "parent", 1000)
        assert short["spent"] == 700 + 250 + 60
        # Children of children count for whoever is above them, and for the run.
        spawn(deepest, "c", 2).refused("budget_exhausted")
        spawn(deepest, "d", 1).ok()
        refused = spawn(above, "e", 1).refused("budget_exhausted")
        assert "parent" in refused["message"]
        # A child may ask for more of what is above it, and nobody for what is not.
        details = {"budget": "tokens", "scope": "tree", "scopeId": parent_id, "spent": 1010, "limit": 1000}
        permission = deepest.question("x", **details)
        answer(api, deepest, permission, "approved")
        assert deepest.ask("budget.extend", {"permissionRequestId": permission}).ok()["limit"] == 2010
        assert "shortage" not in deepest.reserve(60)


def test_a_budget_of_children_is_extended_by_as_many_as_are_wanted(api: Api) -> None:
    own, who = adapter(), api.sandbox()
    made = api.graph(task("parent", own, budget={"children": 2}, toolGrants=["flakes.tasks.spawn"]), budget={"tokens": 500})
    parent_id, run_id = made["tasks"][0]["taskId"], made["run"]["runId"]
    with sandbox(api, who, adapters=[own]) as peer:
        parent = Attempt(api.as_(who[1]), peer, peer.start())

        def spawn(name: str, count: int) -> Answer:
            children = [{"title": f"{name} {n}", "adapter": "nobody"} for n in range(count)]
            return parent.ask("task.spawn", {"operationId": name, "tasks": children})

        def stands() -> tuple[int, int, int]:
            (found,) = [each for each in parent.ask("budget.read", {}).ok()["bounds"] if each["bound"] == "children"]
            assert (found["scope"], found["scopeId"], found["key"]) == ("tree", parent_id, "parent")
            return found["limit"], found["spent"], found["left"]

        spawn("a", 1).ok()
        assert stands() == (2, 1, 1)
        refused = spawn("b", 6).refused("budget_exhausted")
        question = {name: refused[name] for name in ("budget", "scope", "scopeId", "spent", "limit", "wanted")}
        assert question == {
            "budget": "children", "scope": "tree", "scopeId": parent_id, "spent": 1, "limit": 2, "wanted": 6,
        }  # fmt: skip
        permission = parent.question("more", **question)
        answer(api, parent, permission, "approved")
        assert parent.ask("budget.extend", {"permissionRequestId": permission}).ok() == {"bound": "children", "limit": 7}
        spawn("b", 6).ok()
        assert stands() == (7, 7, 0)
        assert spawn("c", 1).refused("budget_exhausted")["limit"] == 7

        parent.spend(AgentUsage(input_total=100, output=20))
        parent.reserve(120)
        found = parent.ask("budget.read", {}).ok()
        assert found["spent"] == {"tokens": 120, "costMicroUsd": 0, "wallMs": 0, "children": 7}
        (tokens,) = [each for each in found["bounds"] if each["bound"] == "tokens"]
        # What the attempt has reserved beyond what it spent is nobody else's.
        assert tokens == {
            "bound": "tokens", "scope": "run", "scopeId": run_id, "key": made["run"]["runKey"], "limit": 500,
            "spent": 120, "left": 285,
        }  # fmt: skip
