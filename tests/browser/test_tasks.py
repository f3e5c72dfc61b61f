"""Journeys on the pages of a run and of a task: steering, answering, reading what an agent says, what it leaves."""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Any

from api.caller import Api, name, task
from api.peer import adapter, beating, lines, sandbox
from browser.conftest import Open
from flakes.wire.sandbox_stream import Input, InputState, TranscriptChunk
from flakes.wire.tasks import Evidence
from flakes.wire.transcripts import AgentUsage, EntryBody


def said(assignment_id: str, first: int, *texts: str, raw: str | None = None) -> TranscriptChunk:
    entries = [
        EntryBody(at_ms=1_790_000_000_000 + n, kind="text", data={"text": text}, raw=raw)
        for n, text in enumerate(texts)
    ]
    usage = AgentUsage(input_total=1_000 * (first + 1), output=200, cost_micro_usd=30_000, calls=1)
    return TranscriptChunk(
        assignment_id=assignment_id, first_entry=first, entries=entries, usage=usage
    )


def test_an_agent_is_read_while_it_speaks(visit: Open, api: Api) -> None:
    own = adapter()
    run = api.graph(task("only", own, budget={"tokens": 10_000}))["run"]["runKey"]
    with sandbox(api, adapters=[own]) as peer, beating(peer):
        given = peer.start()
        page = visit(f"/runs/{run}/tasks/only")
        page.wait_for_selector("role=tab[name=Transcript][selected]")
        page.wait_for_selector("text=Nothing said yet")
        peer.deliver(said(given.assignment_id, 0, "I **begin**.", raw='{"n":1}'))
        page.wait_for_selector(".said strong:has-text('begin')")
        page.click("role=tab[name=Raw]")
        page.wait_for_selector("pre.raw:has-text('{\"n\":1}')")
        peer.deliver(said(given.assignment_id, 1, "I go on.", raw='{"n":2}'))
        page.wait_for_selector("pre.raw:has-text('{\"n\":2}')")
        page.click("role=tab[name=Parsed]")
        page.wait_for_selector("text=I go on.")
        page.reload()
        page.wait_for_selector("text=I go on.")
        page.wait_for_selector(".spent:has-text('2,200 tokens')")
        peer.finish(given.assignment_id, text="All is done.")
        page.wait_for_selector(".state-line:has-text('Succeeded')")
        page.click("role=tab[name=Result]")
        page.wait_for_selector("text=All is done.")
    with page.expect_download() as download:
        page.click("role=tab[name=Transcript]")
        page.click("a:has-text('Download')")
    assert download.value.suggested_filename == "only.transcript.jsonl"


def test_a_log_is_followed_and_searched(visit: Open, api: Api) -> None:
    own = adapter()
    run = api.graph(task("only", own))["run"]["runKey"]
    with sandbox(api, adapters=[own]) as peer, beating(peer):
        given = peer.start()
        page = visit(f"/runs/{run}/tasks/only?tab=log")
        page.wait_for_selector("text=Nothing printed yet.")
        peer.deliver(lines(given.assignment_id, *(f"line {n}" for n in range(300))))
        page.wait_for_selector(".log-line:has-text('line 299')")
        assert page.locator(".log-line").count() < 120, "only what is in sight is in the page"
        peer.deliver(lines(given.assignment_id, "\x1b[31mred\x1b[0m", first=300))
        page.wait_for_selector(".log-line .ansi-1:has-text('red')")
        page.keyboard.press("/")
        page.keyboard.type("line 1")
        page.wait_for_selector("text=111 of 301 lines")


def test_a_message_shows_its_delivery(visit: Open, api: Api) -> None:
    own = adapter()
    run = api.graph(task("only", own), task("later", own, dependsOn=["only"]))["run"]["runKey"]
    with sandbox(api, adapters=[own]) as peer, beating(peer):
        given = peer.start()
        page = visit(f"/runs/{run}/tasks/only?tab=messages")
        page.click("text=Steer")
        page.fill("#message", "Another way, please.")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".messages:has-text('Another way, please.')")
        message = peer.expect(Input, timeout_s=30).messages[0].message_id
        for state in ("delivered", "consumed"):
            peer.deliver(
                InputState(assignment_id=given.assignment_id, message_id=message, state=state)
            )
            page.wait_for_selector(f".message-head:has-text('{state}')")
        assert page.input_value("#message") == ""
        page.goto(f"{api.url}/console/runs/{run}/tasks/later?tab=messages")
        page.wait_for_selector("#message:disabled")
        page.wait_for_selector(".explain:has-text('only')")


def test_a_question_is_answered_where_it_is_asked_and_in_the_inbox(visit: Open, api: Api) -> None:
    own, who = adapter(), api.sandbox()
    run = api.graph(task("only", own))["run"]["runKey"]
    with sandbox(api, who, adapters=[own]) as peer, beating(peer):
        given = peer.start()
        asks = f"/v1/sandboxes/{peer.sandbox_id}/assignments/{given.assignment_id}/operations"

        def ask(prompt: str) -> str:
            body = {"operationId": name("op"), "prompt": prompt, "action": "rm -r build"}
            return api.as_(who[1]).post(f"{asks}/permission.ask", body).ok()["permissionRequestId"]

        page = visit("/inbox")
        page.wait_for_selector("text=Nothing waits for you")
        first = ask("May I clean up?")
        page.wait_for_selector(".badge:has-text('1')")
        page.fill(".question input", "not today")
        page.click(".question button:has-text('Deny')")
        page.wait_for_selector(".list-row:has-text('not today')")
        page.wait_for_selector(".badge", state="detached")
        answer = api.get(f"/v1/permissions/{first}").ok()
        assert (answer["status"], answer["reason"]) == ("denied", "not today")
        page.goto(f"{api.url}/console/runs/{run}/tasks/only")
        second = ask("And now?")
        page.click(".question button:has-text('Approve')")
        page.wait_for_selector(".question", state="detached")
        assert api.get(f"/v1/permissions/{second}").ok()["status"] == "approved"
        page.click("role=tab[name=Activity]")
        page.wait_for_selector("text=The request was approved")


def test_evidence_stands_beside_what_was_asked(visit: Open, api: Api) -> None:
    own = adapter()
    run = api.graph(
        task("only", own, acceptance=["Tests pass"], verify=["make test", "make lint"])
    )["run"]["runKey"]
    with sandbox(api, adapters=[own]) as peer:
        given = peer.start()
        proofs = [Evidence(command="make test", exit_code=0, passed=True, tail="42 passed", duration_ms=900),
                  Evidence(command="make lint", exit_code=1, passed=False, tail="1 error", duration_ms=40)]  # fmt: skip
        peer.finish(given.assignment_id, "failed", evidence=proofs)
    page = visit(f"/runs/{run}/tasks/only?tab=brief")
    page.wait_for_selector("li:has-text('make test') [aria-label=Succeeded]")
    page.wait_for_selector("li:has-text('make lint') [aria-label=Failed]")
    page.wait_for_selector("text=Tests pass")
    page.click("role=tab[name=Result]")
    page.wait_for_selector("text=Not verified")
    page.wait_for_selector("pre:has-text('1 error')")
    page.click("text=Try again")
    page.wait_for_selector(".state-line:has-text('Queued')")


def test_a_run_is_cancelled_rerun_and_deleted(visit: Open, api: Api) -> None:
    own = adapter()
    run = api.graph(task("first", own), task("second", own, dependsOn=["first"]), close=True)[
        "run"
    ]["runKey"]
    page = visit(f"/runs/{run}")
    page.wait_for_selector("text=Why nothing runs")
    page.click("text=Cancel run")
    page.click("dialog >> text=Cancel the run")
    page.wait_for_selector(".state-line:has-text('Cancelled')")
    page.click("text=Rerun from failed")
    page.wait_for_selector(".state-line:has-text('Queued')")
    with page.expect_download() as download:
        page.click("text=History")
    assert download.value.suggested_filename == f"{run}.history.jsonl"
    page.click("summary[aria-label='More actions']")
    page.click("text=Start a run like this one")
    page.wait_for_selector("text=2 tasks with the same definitions")
    page.click("text=Start the run")
    page.wait_for_selector(".node >> nth=1")
    page.click("summary[aria-label='More actions']")
    page.click("text=Delete…")
    page.click("text=Delete for ever")
    page.wait_for_selector("h1:has-text('Runs')")


def test_children_are_in_the_map_and_on_their_parents_page(visit: Open, api: Api) -> None:
    own, who = adapter(), api.sandbox()
    run = api.graph(
        task(
            "parent",
            own,
            toolGrants=["flakes.tasks.spawn", "flakes.groups"],
            budget={"children": 4},
        )
    )["run"]["runKey"]
    with sandbox(api, who, adapters=[own], max_concurrency=1) as peer, beating(peer):
        given = peer.start()
        mate, path = (
            api.as_(who[1]),
            f"/v1/sandboxes/{peer.sandbox_id}/assignments/{given.assignment_id}/operations",
        )
        page = visit(f"/runs/{run}")
        page.wait_for_selector(".node.is-RUNNING")
        mate.post(f"{path}/group.open", {"groupKey": "drafts", "name": "Drafts"}).ok()
        children = [{"taskKey": key, "title": f"Draft {key}", "adapter": own} for key in ("a", "b")]
        mate.post(
            f"{path}/task.spawn", {"operationId": "op", "tasks": children, "group": "drafts"}
        ).ok()
        page.wait_for_selector(".node:has-text('Draft b')")
        page.wait_for_selector(".edge.spawned >> nth=1", state="attached")
        page.click("[role=row] .cover:has-text('parent')")
        page.click("role=tab[name=Children]")
        page.wait_for_selector("h2:has-text('Drafts')")
        page.click("tr >> text=Draft a")
        page.wait_for_selector("section:has-text('Made by') a:has-text('parent')")


def test_a_workflow_file_is_checked_while_it_is_typed_and_started(visit: Open) -> None:
    page = visit("/new?kind=file")
    page.wait_for_selector("text=No problems")
    page.fill("#file", "## one: One\nrun: echo 1\n\n## two: Two\ndepends_on: oen\nrun: echo 2\n")
    page.wait_for_selector("text=1 problem")
    page.click("button:has-text('line 5')")
    assert page.evaluate("[file.selectionStart, document.activeElement.id]") == [37, "file"]
    assert page.locator("button:has-text('Start the run')").is_disabled()
    page.fill(
        "#file",
        "# Two steps\n\n## one: One\nrun: echo 1\n\n## two: Two\ndepends_on: one\nrun: echo 2\n",
    )
    page.wait_for_selector(".node >> nth=1")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("h1:has-text('Two steps')")
    page.wait_for_selector(".node >> nth=1")


def test_files_that_a_task_made_are_promoted(visit: Open, api: Api) -> None:
    own, who = adapter(), api.sandbox()
    content = b"not really a pack"
    pack = {"digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "sizeBytes": len(content)}

    def files(**fields: Any) -> dict[str, Any]:
        return {
            "commit": secrets.token_hex(20),
            "tree": secrets.token_hex(20),
            "packs": [pack],
        } | fields

    announced = {
        "kind": "workspace-pack",
        "digest": pack["digest"],
        "bytesBase64": base64.b64encode(content).decode(),
    }
    api.post("/v1/artifacts", announced).ok(201)
    base = api.post("/v1/workspaces", files()).ok(201)["workspaceId"]
    run = name("run")
    tasks = [task("only", own)]
    api.post(
        f"/v1/runs/{run}/graph",
        {"name": "Files", "projectKey": api.project(), "tasks": tasks, "workspaceId": base},
    ).ok(201)
    page = visit(f"/runs/{run}?tab=promotions")
    page.wait_for_selector("text=the run began with it")
    with sandbox(api, who, adapters=[own]) as peer, beating(peer):
        given = peer.start()
        mate, path = api.as_(who[1]), f"/v1/sandboxes/{peer.sandbox_id}"
        mate.call("PUT", f"{path}/packs/{pack['digest']}", content=content).ok(201)
        changes = [
            {"path": "src/new.py", "kind": "added", "objectId": "1" * 40},
            {"path": "old.py", "kind": "removed"},
        ]
        made = files(kind="candidate", baseWorkspaceId=base, changes=changes, changeCount=2)
        mate.post(f"{path}/assignments/{given.assignment_id}/workspaces", made).ok(201)
        page.click(".candidate >> text=2 paths changed")
        page.wait_for_selector("main [role=alert]:has-text('pack')")  # nobody can compare these
        page.wait_for_selector("li.is-added:has-text('src/new.py')")
        page.click("role=tab[name=Promotions]")
        page.click("main button:has-text('Promote')")
        page.click("dialog >> text=Promote >> nth=-1")
        page.wait_for_selector("tr:has-text('whole'):has-text('you')")
        page.wait_for_selector(".candidate:has-text('Selected')")
        peer.finish(given.assignment_id)
    page.goto(f"{api.url}/console/runs/{run}/tasks/only?tab=changes")
    page.wait_for_selector("li.is-removed:has-text('old.py')")
