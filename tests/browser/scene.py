"""A workspace with everything in it that a page of the console can show, made through the API and by real peers."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api.caller import Api, name, task
from api.peer import HostPeer, SandboxPeer, adapter, beating, host, lines, pool, sandbox
from browser import files
from embedded_servers import wait_until
from flakes.wire import host_stream
from flakes.wire.sandbox_stream import Assignment, TranscriptChunk
from flakes.wire.transcripts import AgentUsage, EntryBody

BRIEF = """Move the checkout to the new payment API.

- [x] read how the old one is called
- [ ] change `pay()` and its callers
- [ ] keep the **retry** behaviour

```python
def pay(order: Order) -> Receipt:
    return api.charge(order.total, key=order.id)
```

| case | what happens |
| --- | --- |
| declined | the order stays open |
| timeout | asked again, with the same key |
"""
PAD = """# Plan

1. Read the old client.
2. Change the callers, one at a time.

## Found so far

The old client retried **without** a key, so a timeout could charge twice.
"""


@dataclass
class Scene:
    """Where things are. Peers stay connected for as long as the scene is there."""

    api: Api
    release: str = "release-2-4"
    done: str = "nightly-docs"
    stalled: str = "migrate-users"
    big: str = "translate"
    changed: str = "invoices"
    project: str = "website"
    host_id: str = ""
    sandbox_id: str = ""
    ended_sandbox: str = ""
    ids: dict[str, str] = field(default_factory=dict)


class Cast:
    """A sandbox peer with its credential: takes tasks by key and acts for them."""

    def __init__(self, peer: SandboxPeer, api: Api) -> None:
        self.peer = peer
        self.api = api
        self.given: dict[str, Assignment] = {}

    def take(self, count: int, keys: dict[str, str]) -> None:
        """The next `count` tasks, known by their keys from then on."""
        for _ in range(count):
            given = self.peer.start(30)
            self.given[keys[given.task_id]] = given

    def id(self, key: str) -> str:
        return self.given[key].assignment_id

    def ask(self, key: str, operation: str, **body: Any) -> Any:
        path = f"/v1/sandboxes/{self.peer.sandbox_id}/assignments/{self.id(key)}/operations/{operation}"
        return self.api.post(path, body).ok()


@contextmanager
def set_up(api: Api) -> Iterator[Scene]:
    """The scene, for this account."""
    scene = Scene(api)
    with ExitStack() as stack:
        api.put(f"/v1/projects/{scene.project}", {"name": "Website"}).ok()
        api.put("/v1/projects/old-site", {"name": "Old site"}).ok()
        api.post("/v1/projects/old-site/archive").ok()
        _fleet(scene, stack)
        _done(scene, stack)
        _release(scene, stack)
        _stalled(scene, stack)
        _big(scene)
        _changed(scene, stack)
        yield scene


def _fleet(scene: Scene, stack: ExitStack) -> None:
    api = scene.api
    who = api.host(hostName="attic", autoBind=False)
    scene.host_id = who[0]
    api.put(f"/v1/hosts/{who[0]}/project-workspace-root", {"path": "/srv/projects"}).ok()
    pools = (
        pool("coding", "pi", max_instances=2, max_concurrency=2, capabilities=["git", "node"]),
        pool("shell", "command", max_instances=4, max_concurrency=8),
    )
    peer = stack.enter_context(host(api, who, *pools))
    stack.enter_context(_kept(peer))
    api.put("/v1/projects/app", {"name": "App"}).ok()
    api.put(f"/v1/hosts/{who[0]}/project-bindings/app", {"poolKeys": ["coding"]}).ok()
    api.host(hostName="laptop")


@contextmanager
def _kept(peer: HostPeer) -> Iterator[None]:
    """Heartbeats of a host meanwhile."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.5):
            peer.tell(host_stream.Heartbeat(instances=0))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _cast(scene: Scene, stack: ExitStack, *adapters: str, named: str) -> Cast:
    made = scene.api.post("/v1/sandboxes", {"name": named}).ok(201)
    who = (made["sandbox"]["sandboxId"], made["rawCredential"])
    peer = stack.enter_context(sandbox(scene.api, who, adapters=list(adapters), max_concurrency=16))
    stack.enter_context(beating(peer))
    return Cast(peer, scene.api.as_(who[1]))


def _graph(
    scene: Scene, key: str, title: str, *tasks: dict[str, Any], **fields: Any
) -> dict[str, str]:
    body = {"name": title, "projectKey": scene.project, "tasks": list(tasks), **fields}
    made = scene.api.post(f"/v1/runs/{key}/graph", body).ok(201)
    scene.ids |= {f"{key}/{one['taskKey']}": one["taskId"] for one in made["tasks"]}
    return {one["taskId"]: one["taskKey"] for one in made["tasks"]}


def _done(scene: Scene, stack: ExitStack) -> None:
    cast = _cast(scene, stack, "docs-agent", named="writer")
    scene.sandbox_id = cast.peer.sandbox_id
    keys = _graph(
        scene, scene.done, "Nightly documentation",
        task("collect", "docs-agent", title="Collect what changed"),
        task("write", "docs-agent", title="Write the pages", dependsOn=["collect"], acceptance=["Every public name has a page"]),
        close=True,
    )  # fmt: skip
    for key in ("collect", "write"):
        cast.take(1, keys)
        cast.peer.finish(cast.id(key), text=f"**{key}** is done: 14 pages, no dead links.")
    content = b"# Release notes\n"
    scene.api.post("/v1/artifacts", {
        "kind": "report", "name": "notes.md", "mediaType": "text/markdown", "runId": _run_id(scene, scene.done),
        "bytesBase64": "IyBSZWxlYXNlIG5vdGVzCg==", "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
    }).ok()  # fmt: skip


def _run_id(scene: Scene, key: str) -> str:
    return scene.api.get(f"/v1/runs/{key}").ok()["runId"]


def _release(scene: Scene, stack: ExitStack) -> None:
    own = "pi"
    cast = _cast(scene, stack, own, named="coder")
    keys = _graph(
        scene, scene.release, "Release 2.4",
        task("survey", own, title="Survey the callers", bodyMarkdown="List every caller of `pay()`."),
        task("payments", own, title="Move to the new payment API", bodyMarkdown=BRIEF, dependsOn=["survey"],
             acceptance=["Every test of the checkout passes", "Nobody is charged twice"], model="opus", effort="high",
             budget={"tokens": 200_000, "costMicroUsd": 5_000_000}, toolGrants=["workpad", "files"]),
        task("copy", own, title="Rewrite the copy of the cart", dependsOn=["survey"]),
        task("icons", own, title="Replace the icons", dependsOn=["survey"], optional=True),
        task("schema", own, title="Migrate the order schema", dependsOn=["survey"]),
        task("mobile", own, title="Try it on small screens", requiredCapabilities=["android"]),
        task("review", own, title="Review the whole", dependsOn=["payments", "copy", "schema"], dependencyFailurePolicy="wait"),
        task("announce", own, title="Announce it", dependsOn=["review"]),
        budget={"tokens": 1_000_000},
    )  # fmt: skip
    cast.take(1, keys)
    _talk(cast, "survey", "Fourteen callers, three of them in tests.")
    cast.peer.finish(cast.id("survey"), text="Fourteen callers; the list is in the workpad.")
    cast.take(4, keys)
    _talk(cast, "payments", "The old client retries without a key. I change that first.")
    cast.peer.deliver(lines(cast.id("payments"), *_log()))
    cast.ask("payments", "permission.ask", operationId=name("op"), prompt="May I run the payment tests against the sandbox of the bank?",
             action="pytest tests/payments --live", details={"host": "sandbox.bank.example"})  # fmt: skip
    cast.ask(
        "payments",
        "files.reserve",
        selectors=[{"path": "src/payments", "kind": "prefix"}],
        reason="the callers change together",
    )
    api, pad = scene.api, f"/v1/tasks/{scene.ids[f'{scene.release}/payments']}"
    api.put(f"{pad}/workpad", {"bodyMarkdown": PAD, "baseVersion": 0}).ok()
    api.put(
        f"{pad}/workpad",
        {"bodyMarkdown": PAD + "\nThree callers are in tests.\n", "baseVersion": 1},
    ).ok()
    api.post(
        f"{pad}/messages",
        {"mode": "steer", "message": "Leave the tests of the bank alone for now."},
    ).ok()
    cast.peer.finish(cast.id("copy"), text="The copy is shorter by a third.")
    cast.peer.finish(cast.id("schema"), "failed")


def _talk(cast: Cast, key: str, words: str) -> None:
    at = int(time.time() * 1000)
    said = [
        ("session", {"kind": "pi", "value": "0d9c", "resumed": False}),
        ("prompt", {"text": BRIEF, "source": "brief"}),
        ("thinking", {"text": "Who calls it, and with what? I look before I change anything."}),
        (
            "tool",
            {
                "state": "start",
                "id": "t1",
                "name": "bash",
                "input": {"command": "rg -n 'pay\\(' src"},
            },
        ),
        (
            "tool",
            {
                "state": "end",
                "id": "t1",
                "name": "bash",
                "output": "src/cart.py:14: pay(order)\nsrc/orders.py:88: pay(order)",
                "ok": True,
            },
        ),
        ("tool", {"state": "start", "id": "t2", "name": "bash", "input": {"command": "pytest -q"}}),
        (
            "tool",
            {
                "state": "end",
                "id": "t2",
                "name": "bash",
                "output": "1 failed, 41 passed",
                "ok": False,
            },
        ),
        ("steer", {"text": "Keep the old names.", "messageId": "msg_1"}),
        ("question", {"id": "q1", "title": "Run the tests?", "effect": "execute"}),
        ("decision", {"id": "q1", "allowed": True, "by": "policy", "reason": "it reads only"}),
        ("notice", {"level": "warning", "text": "The context is at 60 %."}),
        ("text", {"text": words}),
        ("turn", {"status": "completed"}),
    ]
    entries = [
        EntryBody(at_ms=at + n, kind=kind, data=data, raw=None)
        for n, (kind, data) in enumerate(said)
    ]  # type: ignore[arg-type]
    entries[-2] = EntryBody(
        at_ms=at, kind="text", data={"text": words}, raw='{"type":"message","text":"' + words + '"}'
    )
    spent = AgentUsage(
        input_total=48_200,
        cached_read=31_000,
        output=2_150,
        reasoning=700,
        cost_micro_usd=412_000,
        calls=6,
    )
    cast.peer.deliver(
        TranscriptChunk(assignment_id=cast.id(key), first_entry=0, entries=entries, usage=spent)
    )


def _log() -> list[str]:
    return [
        "$ pytest tests/payments", "\x1b[32mcollected 42 items\x1b[0m",
        *(f"tests/payments/test_{n:02d}.py \x1b[32mPASSED\x1b[0m" for n in range(40)),
        "\x1b[31mtests/payments/test_keys.py FAILED\x1b[0m", "\x1b[1m1 failed, 41 passed in 3.2 s\x1b[0m",
    ]  # fmt: skip


def _stalled(scene: Scene, stack: ExitStack) -> None:
    own = adapter()
    keys = _graph(
        scene, scene.stalled, "Migrate the users",
        task("dump", own, title="Dump the old table"),
        task("load", own, title="Load the new one", dependsOn=["dump"], dependencyFailurePolicy="wait"),
        close=True,
    )  # fmt: skip
    cast = _cast(scene, stack, own, named="mover")
    cast.take(1, keys)
    cast.peer.finish(cast.id("dump"), "failed")


def _big(scene: Scene) -> None:
    own = adapter()
    pages = [
        task(f"page-{n:03d}", own, title=f"Translate page {n}", dependsOn=["glossary"])
        for n in range(120)
    ]
    _graph(scene, scene.big, "Translate the manual", task("glossary", own, title="Agree on words"), *pages,
           task("proof", own, title="Proof-read", dependsOn=[p["taskKey"] for p in pages]))  # fmt: skip


def _changed(scene: Scene, stack: ExitStack) -> None:
    """A run in files: what one task left is selected, what another left conflicts with it, and a third one failed."""
    own, api = adapter(), scene.api
    place = files.Files(Path(stack.enter_context(tempfile.TemporaryDirectory())))
    cast = _cast(scene, stack, own, named="shop")
    keys = _graph(
        scene, scene.changed, "Pay by invoice",
        task("payment", own, title="Pay by invoice"),
        task("wording", own, title="Say how one can pay"),
        task("tests", own, title="Test the cart", optional=True),
        workspaceId=place.begin(api, files.shop), close=True,
    )  # fmt: skip
    cast.take(3, keys)

    for key in ("payment", "wording"):
        cast.ask(key, "workspace.changing", paths=["README.md"])

    def settled(count: int) -> bool:
        merges = api.get(f"/v1/runs/{scene.changed}/workspaces").ok()["merges"]
        return sum("settledAt" in merge for merge in merges) == count

    edits = {"payment": files.payment, "wording": files.wording, "tests": files.tests}
    for number, (key, edit) in enumerate(edits.items(), 1):
        place.leave(cast.api, cast.peer.sandbox_id, cast.given[key], edit)
        cast.peer.finish(cast.id(key), "failed" if key == "tests" else "succeeded")
        wait_until(lambda count=number: settled(count))
