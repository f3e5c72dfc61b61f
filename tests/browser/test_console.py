"""Journeys through the console, in a real browser against a real server."""

from __future__ import annotations

from api.caller import Api, task
from api.peer import adapter, sandbox
from browser.conftest import Open


def test_a_link_signs_in_once_and_a_run_moves_by_itself(visit: Open, api: Api) -> None:
    own = adapter()
    run = api.graph(task("first", own), task("second", own, dependsOn=["first"]))["run"]
    page = visit(f"/runs/{run['runKey']}")
    page.wait_for_selector(".node.is-QUEUED")
    with sandbox(api, adapters=[own]) as peer:
        started = peer.start()
        page.wait_for_selector(".node.is-RUNNING")
        peer.finish(started.assignment_id)
        page.wait_for_selector(".node.is-SUCCEEDED")


def test_a_run_starts_from_a_prompt(visit: Open) -> None:
    page = visit("/new")
    page.fill("#prompt", "echo hello")
    page.click("text=Start the run")
    page.wait_for_selector("h1:has-text('echo hello')")


def test_two_tabs_editing_one_workpad_lose_nothing(visit: Open, api: Api) -> None:
    run = api.graph(task("only"))["run"]
    path = f"/runs/{run['runKey']}/tasks/only?tab=workpad"
    one, two = visit(path), visit(path)
    for page in (one, two):
        page.bring_to_front()  # what is behind is drawn once a second
        page.click("button:has-text('Edit')")
    one.bring_to_front()
    one.fill("#pad", "from one\n")
    one.click("button:has-text('Save')")
    one.wait_for_selector("text=Version 1")
    two.bring_to_front()
    two.fill("#pad", "from two\n")
    two.click("button:has-text('Save')")
    two.click("text=Both, yours first")
    two.click("text=Use this and go on editing")
    two.click("button:has-text('Save')")
    two.wait_for_selector("text=Version 2")
    saved = api.get(f"/v1/runs/{run['runKey']}/tasks/only").ok()["taskId"]
    assert api.get(f"/v1/tasks/{saved}/workpad").ok()["bodyMarkdown"] == "from two\nfrom one\n"


def test_the_policy_is_strict_and_files_are_kept(api: Api) -> None:
    answer = api.call("GET", "/console/runs", checked=False)
    assert "script-src 'self';" in answer.headers["content-security-policy"]
    path = answer.content.decode().split('src="')[1].split('"')[0]
    assert "immutable" in api.call("GET", path, checked=False).headers["cache-control"]


def test_unsaved_text_survives_its_tab(visit: Open, api: Api) -> None:
    run = api.graph(task("only"))["run"]
    path = f"/runs/{run['runKey']}/tasks/only?tab=workpad"
    first = visit(path)
    first.click("button:has-text('Edit')")
    first.fill("#pad", "not saved yet\n")
    first.reload()
    first.wait_for_selector("#pad")
    assert first.input_value("#pad") == "not saved yet\n"
    other = visit(path)
    first.close()
    other.click("text=Go on with it here")
    assert other.input_value("#pad") == "not saved yet\n"
    other.click("button:has-text('Save')")
    other.wait_for_selector("text=Version 1")
    again = visit(path)
    again.wait_for_selector("text=Version 1")
    assert again.locator("text=Another tab").count() == 0
