"""Journeys through hosts, sandboxes and projects: every form of them, against a real host and against scripted ones."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.caller import Api, name, task
from api.peer import adapter, host, instance, pool, sandbox
from browser.conftest import Open
from flakes.wire.host_stream import LeaseResult, Stop


@pytest.fixture
def attic(api: Api, tmp_path: Path) -> Iterator[str]:
    """A real host of the account with one pool for commands, which no project is bound to; its id."""
    host_id, token = api.host(hostName="attic", autoBind=False)
    credential, config, log = tmp_path / "credential", tmp_path / "host.toml", tmp_path / "host.log"
    credential.touch(0o600)
    credential.write_text(token + "\n")
    config.write_text(
        f'controlPlaneUrl = "{api.url}"\nhostId = "{host_id}"\ncredentialFile = "{credential}"\n'
        f'stateDir = "{tmp_path}/state"\n\n[[pools]]\npoolKey = "shell"\nadapter = "command"\n'
        'maxInstances = 1\nmaxConcurrency = 2\nadvertisedCapabilities = ["linux"]\n'
    )
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "flakes.host", "run", "--config", str(config)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield host_id
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()
            sys.stdout.write(log.read_text()[-4000:])


def confirm(page: Any, button: str) -> None:
    """Press a button, and the one that really does it."""
    page.click(f"main button:has-text('{button}')")
    page.click("dialog .dialog-actions button:last-child")


def more(page: Any, item: str) -> None:
    page.click("summary[aria-label='More actions']")
    page.click(f".menu-items button:has-text('{item}')")


def test_a_machine_serves_a_project_and_is_emptied(
    visit: Open, api: Api, attic: str, tmp_path: Path
) -> None:
    page = visit("/hosts")
    page.wait_for_selector("tr:has-text('attic'):has-text('online')")
    page.click("text=attic")
    page.wait_for_selector("td:has-text('shell')")
    page.click("button:has-text('Change')")
    page.fill("#root", "not/absolute")
    page.click("dialog button:has-text('Save')")
    page.wait_for_selector("dialog [role=alert]")
    page.fill("#root", str(tmp_path / "projects"))
    page.click("dialog button:has-text('Save')")
    page.wait_for_selector(f"code:has-text('{tmp_path}/projects')")

    page.click("nav >> text=Projects")
    page.click("text=New project")
    page.fill("#project-name", "The Site")
    assert page.input_value("#project-key") == "the-site"
    page.click("text=Make the project")
    page.wait_for_selector("h1:has-text('The Site')")
    page.check("label:has-text('shell') input")
    page.click("text=Bind these pools")
    page.wait_for_selector(".binding:has-text('unavailable')")
    page.wait_for_selector("text=workspace root not found")
    (tmp_path / "projects" / "the-site").mkdir(parents=True)
    page.wait_for_selector(".binding .tone-good:has-text('available')")

    page.click("text=All its runs")
    page.click("text=New run")
    page.fill("#prompt", "echo from the attic")
    page.fill("#project", "the-site")
    page.click("text=Start the run")
    page.wait_for_selector(".state-line:has-text('Succeeded')")
    page.click(".cover:has-text('echo from the attic')")
    page.click("role=tab[name=Log]")
    page.wait_for_selector(".log-line:has-text('from the attic')")

    page.click("nav >> text=Sandboxes")
    page.click("[role=row] .cover")
    page.wait_for_selector(".state-line:has-text('running')")
    confirm(page, "Drain")
    page.wait_for_selector(".state-line:has-text('stopped')")
    more(page, "Delete…")
    page.click("dialog .danger.solid")
    page.wait_for_selector("h1:has-text('Sandboxes')")

    page.go_back()
    page.wait_for_selector("main [role=alert]")
    page.click("nav >> text=Projects")
    page.click(".cover:has-text('The Site')")
    page.uncheck("label:has-text('shell') input")
    page.click("text=Remove the binding")
    page.wait_for_selector("text=It is bound to no host")


def test_a_project_is_renamed_and_archived(visit: Open, api: Api) -> None:
    key = api.project()
    page = visit(f"/projects/{key}")
    page.click("text=Rename")
    page.fill("#rename", "Another name")
    page.click("dialog button:has-text('Rename')")
    page.wait_for_selector("h1:has-text('Another name')")
    confirm(page, "Archive")
    page.wait_for_selector(".state-line:has-text('archived')")
    assert page.locator("button:has-text('Archive')").count() == 0
    page.click("nav >> text=Projects")
    page.click("text=New project")
    page.fill("#project-name", "Another")
    page.fill("#project-key", key)
    page.click("text=Make the project")
    page.wait_for_selector("dialog [role=alert]")


def test_what_blocks_a_delete_is_told_in_words(visit: Open, api: Api) -> None:
    own = adapter()
    with sandbox(api, adapters=[own]) as peer:
        api.graph(task("only", own))
        given = peer.start()
        page = visit(f"/sandboxes/{peer.sandbox_id}")
        page.wait_for_selector("text=1 of 4 tasks")
        more(page, "Delete…")
        page.click("dialog .danger.solid")
        page.wait_for_selector(
            "dialog [role=alert]:has-text('it is connected: drain or stop it first; it runs tasks')"
        )
        page.keyboard.press("Escape")
        peer.finish(given.assignment_id)
        page.wait_for_selector("text=0 of 4 tasks")
    page.wait_for_selector(".head-facts:has-text('offline')")
    more(page, "Delete…")
    page.click("dialog .danger.solid")
    page.wait_for_selector("h1:has-text('Sandboxes')")
    page.wait_for_selector("text=No sandboxes yet")


def test_a_delete_waits_for_the_hosts_clean_up_or_is_given_up(visit: Open, api: Api) -> None:
    own, who = adapter(), api.host()
    api.graph(task("only", own))
    with host(api, who, pool("here", own)) as machine:
        launch = machine.launched()
        page = visit(f"/sandboxes/{launch.sandbox_id}")
        with sandbox(api, (launch.sandbox_id, launch.sandbox_token), adapters=[own]) as peer:
            page.wait_for_selector(".state-line:has-text('running')")
            peer.start()
            confirm(page, "Stop")
            page.wait_for_selector(".state-line:has-text('stopping')")
            machine.expect(Stop)
    api.get(f"/v1/hosts/{who[0]}").ok()
    more(page, "Delete…")
    page.click("dialog .danger.solid")
    page.wait_for_selector("dialog [role=alert]:has-text('stop it first')")
    page.keyboard.press("Escape")
    more(page, "Abandon…")
    page.fill("#abandon", "sandbox_wrong")
    page.click("dialog .danger.solid")
    page.wait_for_selector("dialog [role=alert]")
    page.fill("#abandon", launch.sandbox_id)
    page.click("dialog .danger.solid")
    page.wait_for_selector("h1:has-text('Sandboxes')")


def test_a_cleanup_that_waits_is_shown(visit: Open, api: Api) -> None:
    own, who = adapter(), api.host()
    api.graph(task("only", own))
    with host(api, who, pool("here", own)) as machine:
        launch = machine.launched()
        with sandbox(api, (launch.sandbox_id, launch.sandbox_token), adapters=[own]) as peer:
            given = peer.start()
            peer.finish(given.assignment_id)
        page = visit(f"/sandboxes/{launch.sandbox_id}")
    page.wait_for_selector(".head-facts:has-text('offline')")
    more(page, "Delete…")
    page.click("dialog .danger.solid")
    page.wait_for_selector(".state-line:has-text('deleting')")
    page.click("nav >> text=Sandboxes")
    page.wait_for_selector("[role=row]:has-text('deleting')")
    with host(api, who, pool("here", own), instances=[instance(launch)]) as machine:
        machine.tell(LeaseResult(lease_id=machine.expect(Stop).lease_id, ok=True))
        page.wait_for_selector("text=No sandboxes yet")


def test_a_host_is_disabled_and_deleted_once_nothing_holds_it(visit: Open, api: Api) -> None:
    who = api.host(hostName=name("rack"))
    with host(api, who, pool("here", adapter())):
        page = visit(f"/hosts/{who[0]}")
        page.wait_for_selector(".state-line:has-text('online')")
        confirm(page, "Disable")
        page.wait_for_selector(".state-line:has-text('disabled')")
        page.click("button:has-text('Enable')")
        page.wait_for_selector(".state-line:has-text('online')")
        more(page, "Delete…")
        page.click("dialog .danger.solid")
        page.wait_for_selector(
            "dialog [role=alert]:has-text('it has credentials that work: revoke them')"
        )
        page.keyboard.press("Escape")
        confirm(page, "Revoke")
        page.wait_for_selector("td:has-text('revoked')")
    page.wait_for_selector(".state-line:has-text('offline')")
    more(page, "Delete…")
    page.click("dialog .danger.solid")
    page.wait_for_selector("h1:has-text('Hosts')")
    page.wait_for_selector("text=No hosts")


def test_a_host_that_never_comes_back_is_abandoned(visit: Open, api: Api) -> None:
    own, who = adapter(), api.host(hostName=name("lost"))
    made = api.graph(task("only", own))
    with host(api, who, pool("here", own)) as machine:
        launch = machine.launched()
        with sandbox(api, (launch.sandbox_id, launch.sandbox_token), adapters=[own]) as peer:
            peer.start()
    page = visit(f"/hosts/{who[0]}")
    more(page, "Abandon…")
    page.fill("#abandon", who[0])
    page.click("dialog .danger.solid")
    page.wait_for_selector(".state-line:has-text('disabled')")
    page.goto(f"{api.url}/console/runs/{made['run']['runKey']}/tasks/only")
    page.wait_for_selector(".state-line:has-text('Queued')")
    page.wait_for_selector(".explain")
