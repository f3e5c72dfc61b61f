"""Journeys with what waits: a live task and its rounds, a signal, a question about a budget, a harness."""

from __future__ import annotations

from typing import Any

from api.caller import Answer, Api, name, task
from api.peer import adapter, beating, sandbox
from browser.conftest import Open
from flakes.console.assets import load
from flakes.wire.events import TYPES

GRANTS = ["flakes.tasks.spawn", "flakes.groups"]


def test_a_live_task_is_prompted_and_finished(visit: Open, api: Api) -> None:
    own, who = adapter(), api.sandbox()
    run = api.graph(task("editor", own, liveRounds=True))["run"]["runKey"]
    page = visit(f"/runs/{run}/tasks/editor?tab=rounds")
    page.wait_for_selector("text=No rounds yet")
    with sandbox(api, who, adapters=[own]) as peer, beating(peer):
        given = peer.start()
        mate, path = api.as_(who[1]), f"/v1/sandboxes/{peer.sandbox_id}/assignments/{given.assignment_id}/operations"

        def do(operation: str, **body: Any) -> Answer:
            return mate.post(f"{path}/{operation}", body)

        page.wait_for_selector(".composer:has-text('No round has begun yet')")
        page.fill("#prompt-round", "Make it **shorter**.")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".round:has-text('round-1') strong:has-text('shorter')")
        assert page.input_value("#prompt-round") == ""
        assert do("round.next").ok()["round"]["prompt"] == "Make it **shorter**."
        page.wait_for_selector(".round .state-line:has-text('Running')")
        draft = {"draft": {"kind": "text", "text": "Short."}}
        do("round.complete", roundKey="round-1", text="It has one word.", outputs=draft).ok()
        page.wait_for_selector(".round:has-text('Completed'):has-text('It has one word.')")
        with page.expect_download() as download:
            page.click(".round a:has-text('Download')")
        assert download.value.path().read_text() == "Short."
        page.click(".composer button:has-text('Finish')")
        page.click("dialog >> text=Let it finish")
        page.wait_for_selector(".composer:has-text('gets no more prompts')")
        assert do("round.next").ok()["finishing"]
        peer.finish(given.assignment_id)
        page.wait_for_selector(".composer", state="detached")
        page.click("role=tab[name=Activity]")
        page.wait_for_selector("text=The round round-1 is completed")


def test_a_signal_that_is_waited_for_is_sent(visit: Open, api: Api) -> None:
    own, who = adapter(), api.sandbox()
    run = api.graph(task("only", own))["run"]["runKey"]
    with sandbox(api, who, adapters=[own]) as peer, beating(peer):
        given = peer.start()
        path = f"/v1/sandboxes/{peer.sandbox_id}/assignments/{given.assignment_id}/operations"
        wait = {"operationId": "w", "on": {"kind": "signal", "name": "go"}}
        assert api.as_(who[1]).post(f"{path}/task.wait", wait).ok()["state"] == "pending"
        peer.finish(given.assignment_id, "retryable")
        page = visit(f"/runs/{run}/tasks/only?tab=children")
        page.wait_for_selector(".explain:has-text('the signal go')")
        page.click(".notice.wait button:has-text('Send it')")
        page.fill("#signal", "not json")
        page.click("dialog button:has-text('Send')")
        page.wait_for_selector("dialog [role=alert]:has-text('no JSON')")
        page.fill("#signal", '{"chapter": 3}')
        page.click("dialog button:has-text('Send')")
        page.wait_for_selector(".activity:has-text('The signal go'):has-text('has happened'):has-text('\"chapter\": 3')")
        peer.finish(peer.start().assignment_id)
        page.wait_for_selector(".state-line:has-text('Succeeded')")


def test_a_question_about_a_budget_says_what_it_means(visit: Open, api: Api) -> None:
    own, who = adapter(), api.sandbox()
    api.graph(task("only", own, budget={"tokens": 10_000}))
    with sandbox(api, who, adapters=[own]) as peer, beating(peer):
        given = peer.start()
        path = f"/v1/sandboxes/{peer.sandbox_id}/assignments/{given.assignment_id}/operations"
        details = {"budget": "tokens", "scope": "task", "scopeId": given.task_id, "spent": 10_400, "limit": 10_000}
        asked = {"operationId": name("op"), "prompt": "Extend the budget?", "action": "extend", "details": details}
        request = api.as_(who[1]).post(f"{path}/permission.ask", asked).ok()["permissionRequestId"]
        page = visit("/inbox")
        page.wait_for_selector(".question:has-text('10,400 tokens of 10,000 tokens of this task')")
        assert "scopeId" not in page.inner_text(".question")
        page.click(".question button:has-text('Allow as much again')")
        page.wait_for_selector(".question", state="detached")
        assert api.get(f"/v1/permissions/{request}").ok()["status"] == "approved"


def test_the_module_of_a_harness_is_its_brief(visit: Open, api: Api) -> None:
    module = "from flakes.harness import define_harness\n"
    given = {"harnessFile": "plan.py", "source": module, "files": {"parts.py": "COUNT = 3\n"}, "args": {"count": 3}}
    run = api.graph(task("only", "harness", input=given))["run"]["runKey"]
    page = visit(f"/runs/{run}/tasks/only?tab=brief")
    page.wait_for_selector("summary:has-text('plan.py')")
    assert page.inner_text("details[open]:has(summary:has-text('plan.py')) pre").strip() == module.strip()
    page.wait_for_selector("pre:has-text('\"count\": 3')")
    page.click("summary:has-text('parts.py')")
    page.wait_for_selector("pre:has-text('COUNT = 3')")


def test_everything_that_can_happen_to_a_task_has_a_sentence(visit: Open) -> None:
    page = visit("/runs")
    module = f"/console/static/{load().version}/app/pages/task-activity.js"
    told = page.evaluate("async (module) => Object.keys((await import(module)).SENTENCES)", module)
    kinds = {"task", "group", "round", "wait", "signal", "attempt", "message", "permission", "budget", "workpad",
             "files", "artifact", "workspace"}  # fmt: skip
    assert {each for each in TYPES if each.split(".")[0] in kinds} - set(told) == set()
