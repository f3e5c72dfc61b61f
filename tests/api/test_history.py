"""`history.jsonl`: one moment, complete enough to tell every task's story, and without secrets."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from bench.listing import FILL_RUN, LARGE

from api.caller import Api, task
from api.peer import adapter, lines, sandbox
from api.plane import Server
from embedded_servers import wait_until
from flakes.core.limits import EXPORTS_AT_ONCE_MAX
from flakes.wire.history import TYPES, VERSION
from flakes.wire.tasks import Output

TOKEN = "ghp_abcdefghijklmnopqrstuvwxyz0123456789"
OWN_TOKEN = "flakes_user_abcdefghij234567.abcdefghijklmnop-qrstuvwxyz"


def history(api: Api, run: str) -> list[dict[str, Any]]:
    answer = api.get(f"/v1/runs/{run}/history.jsonl")
    assert answer.status == 200
    assert answer.content.endswith(b"\n")
    found = [msgspec.json.decode(line) for line in answer.content.splitlines()]
    assert {line["version"] for line in found} == {VERSION}
    order = [TYPES.index(line["type"]) for line in found]
    assert order == sorted(order)
    assert order.count(0) == 1
    return found


def text_output(text: str) -> Output:
    digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return Output(kind="text", size_bytes=len(text), digest=digest, text=text)


def rebuilt(history: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What became of every task, told by its events, attempts and result alone."""
    tasks: dict[str, dict[str, Any]] = defaultdict(lambda: {"attempts": [], "outputs": {}, "error": None})
    moves = {
        "task.queued": "QUEUED", "task.running": "RUNNING", "task.succeeded": "SUCCEEDED",
        "task.failed": "FAILED", "task.cancelled": "CANCELLED",
    }  # fmt: skip
    for line in history:
        one = tasks[line["taskId"]] if line.get("taskId") else None
        match line["type"]:
            case "event" if one is not None:
                if line["event"] in ("task.admitted", "task.queued"):
                    one["status"] = line["data"].get("status", "QUEUED")
                elif line["event"] == "task.saved":
                    one["status"] = "SAVED"
                elif line["event"] in moves:
                    one["status"] = moves[line["event"]]
                    one["error"] = line["data"].get("error")
            case "attempt":
                assert one is not None
                one["attempts"].append((line["assignmentId"], line["attempt"], line["state"]))
                moments = [line[k] for k in ("offeredAt", "acceptedAt", "endedAt") if line[k]]
                assert moments == sorted(moments)
            case "result":
                assert one is not None
                one["outputs"] = {key: o["digest"] for key, o in line["outputs"].items()}
            case _:
                pass
    return dict(tasks)


def test_every_task_can_be_rebuilt_from_the_lines_alone(api: Api) -> None:
    own = adapter()
    retry = {"maxAttempts": 2, "backoffS": 0}
    made = api.graph(
        task("good", own), task("again", own, retry=retry), task("bad", own),
        task("after", own, dependsOn=["bad"]), task("still", own, dependsOn=["good"]),
        task("waits", "nobody-has-it"),
    )  # fmt: skip
    run = made["run"]["runId"]
    with sandbox(api, adapters=[own], max_concurrency=1) as peer:
        outcomes = {"bad": ["failed"], "again": ["retryable", "succeeded"], "still": ["hold"]}
        while True:
            one = peer.start()
            peer.deliver(lines(one.assignment_id, *[f"{one.task_key} {n}" for n in range(3)]))
            outcome = outcomes.get(one.task_key, ["succeeded"]).pop(0)
            if outcome == "hold":
                break
            outputs = {"out": text_output(f"of {one.task_key}")} if outcome == "succeeded" else {}
            peer.finish(one.assignment_id, outcome, outputs=outputs)
        story = history(api, run)
        stories = rebuilt(story)
        tasks = api.get(f"/v1/runs/{run}/tasks").ok()["tasks"]
        assert {t["status"] for t in tasks} == {"SUCCEEDED", "FAILED", "RUNNING", "QUEUED"}
        by_line = {line["taskId"]: line for line in story if line["type"] == "task"}
        assert len(by_line) == len(tasks) == len(stories)
        for shown in tasks:
            detail = api.task(shown["taskId"])
            one = stories[shown["taskId"]]
            assert one["status"] == detail["status"] == by_line[shown["taskId"]]["status"]
            attempts = [(a["assignmentId"], a["attempt"], a["state"]) for a in detail.get("attempts", [])]
            assert one["attempts"] == attempts
            if detail["status"] == "FAILED":
                assert one["error"] == detail["error"]
            line = by_line[shown["taskId"]]
            for field in ("createdAt", "queuedAt", "startedAt", "finishedAt"):
                assert line[field] == detail.get(field), field
            assert line["definition"] == detail["definition"]
            assert line["dependsOn"] == detail.get("dependsOn", [])
            if detail["status"] in ("SUCCEEDED", "FAILED"):
                result = api.get(f"/v1/tasks/{shown['taskId']}/result").ok()
                digests = {key: o["digest"] for key, o in result.get("outputs", {}).items()}
                assert one["outputs"] == digests
            entries = api.get(f"/v1/tasks/{shown['taskId']}/logs", limit=1000).ok()["logs"]
            logged = [e for e in story if e["type"] == "log" and e["taskId"] == shown["taskId"]]
            assert [(e["cursor"], e["text"], e["at"]) for e in logged] == [
                (e["cursor"], e["text"], e["at"]) for e in entries
            ]
        run_line = story[0]
        assert run_line["taskCounts"] == api.get(f"/v1/runs/{run}").ok()["taskCounts"]


def test_secrets_of_known_shapes_stay_inside(api: Api) -> None:
    own = adapter()
    made = api.graph(
        task("leaky", own, bodyMarkdown=f"use {TOKEN}", input={"env": {"MY_API_KEY": "open sesame"}}),
        metadata={"note": f"Authorization: Bearer {TOKEN}"},
    )
    run = made["run"]["runId"]
    key = ["-----BEGIN PRIVATE KEY-----", "MIIEvQIBADANBgkq", "hkiG9w0BAQEFAASC", "-----END PRIVATE KEY-----"]
    with sandbox(api, adapters=[own]) as peer:
        one = peer.start()
        peer.deliver(lines(one.assignment_id, f"\t{TOKEN}", f'"Authorization": "Bearer {"s" * 20}"', OWN_TOKEN, *key, "fine"))
        peer.finish(
            one.assignment_id, "failed", text=f"said sk-{'a1' * 20}",
            outputs={"out": text_output("AKIAIOSFODNN7EXAMPLE")},
        )  # fmt: skip
    content = api.get(f"/v1/runs/{run}/history.jsonl").content.decode()
    for secret in (TOKEN, OWN_TOKEN, "open sesame", "s" * 20, "a1a1a1", "AKIAIOSF", *key[1:3]):
        assert secret not in content, secret
    story = history(api, run)
    texts = [line["text"] for line in story if line["type"] == "log"]
    assert texts[0] == "\tghp_[redacted]"
    assert texts[-1] == "fine"
    assert len(texts) == 8
    # What the API itself shows to the owner is as it was.
    assert TOKEN in api.task(one.task_id)["definition"]["bodyMarkdown"]


def test_a_story_with_cancels_losses_and_retries_is_told_too(server: Server) -> None:
    """Every way a task can come to its end: rebuilt, it is what the API shows."""
    api = server.account()
    own = adapter()
    made = api.graph(
        task("lost", own, priority=9), task("retried", own, priority=8), task("stopped", own, priority=7),
        task("behind", own, dependsOn=["retried"]), task("optional", own, optional=True, dependsOn=["stopped"]),
        task("unwanted", "nobody-has-it"),
    )  # fmt: skip
    run = made["run"]["runId"]
    ids = {t["taskKey"]: t["taskId"] for t in made["tasks"]}
    api.put(f"/v1/runs/{run}/tasks/saved", task("saved")).ok(201)
    who = api.sandbox()
    with sandbox(api, who, adapters=[own], max_concurrency=1) as peer:
        assert peer.start().task_key == "lost"
    # Back, and it has forgotten: the attempt is lost at once.
    with sandbox(api, who, adapters=[own], max_concurrency=1) as peer:
        seen: Counter[str] = Counter()
        while seen != {"lost": 1, "retried": 2, "stopped": 1, "behind": 1}:
            one = peer.start()
            seen[one.task_key] += 1
            if one.task_key == "stopped":
                api.post(f"/v1/tasks/{ids['stopped']}/cancel", {"reason": "enough"}).ok(202)
                peer.finish(one.assignment_id, "cancelled")
            elif one.task_key == "retried" and seen["retried"] == 1:
                peer.finish(one.assignment_id, "failed")
                api.post(f"/v1/tasks/{ids['retried']}/retry").ok()
            else:
                peer.finish(one.assignment_id)
    api.post(f"/v1/tasks/{ids['unwanted']}/cancel", {}).ok(202)
    stories = rebuilt(history(api, run))
    shown = {t["taskKey"]: t for t in api.get(f"/v1/runs/{run}/tasks").ok()["tasks"]}
    assert {key: t["status"] for key, t in shown.items()} == {
        "lost": "SUCCEEDED", "retried": "SUCCEEDED", "stopped": "CANCELLED", "behind": "SUCCEEDED",
        "optional": "FAILED", "unwanted": "CANCELLED", "saved": "SAVED",
    }  # fmt: skip
    for task_shown in shown.values():
        one, detail = stories[task_shown["taskId"]], api.task(task_shown["taskId"])
        assert one["status"] == detail["status"], detail["taskKey"]
        assert one["attempts"] == [
            (a["assignmentId"], a["attempt"], a["state"]) for a in detail.get("attempts", [])
        ]


def test_what_a_run_has_now_is_there_beside_what_happened(api: Api) -> None:
    own = adapter()
    who = api.sandbox()
    made = api.graph(task("only", own))
    run, task_id = made["run"]["runId"], made["tasks"][0]["taskId"]
    with sandbox(api, who, adapters=[own]) as peer:
        held = peer.start().assignment_id
        base = f"/v1/sandboxes/{who[0]}/assignments/{held}/operations"

        def ask(operation: str, **body: Any) -> dict[str, Any]:
            return api.as_(who[1]).post(f"{base}/{operation}", body).ok()

        ask("workpad.save", bodyMarkdown=f"# One\n{TOKEN}", baseVersion=0)
        api.put(f"/v1/tasks/{task_id}/workpad", {"bodyMarkdown": "# Two", "baseVersion": 1}).ok()
        said = api.post(f"/v1/tasks/{task_id}/messages", {"mode": "steer", "message": f"use {TOKEN}"}).ok(202)
        asked = ask("permission.ask", operationId="a", prompt=f"May I use {TOKEN}?", details={"API_TOKEN": "open"})
        open_ = ask("permission.ask", operationId="b", prompt="And this?")
        path = f"/v1/tasks/{task_id}/permissions/{asked['permissionRequestId']}/respond"
        api.post(path, {"decision": "denied", "reason": f"not {TOKEN}"}).ok()
        ask("files.reserve", selectors=[{"path": "src", "kind": "prefix"}], reason="editing")
        body = {"kind": "file", "name": "a.txt", "bytesBase64": "aGVsbG8K", "taskId": task_id, "metadata": {"by": TOKEN}}
        artifact = api.post("/v1/artifacts", body).ok(201)
        api.post("/v1/artifacts", {"kind": "file", "runId": run}).ok(201)
        story = history(api, run)
        peer.finish(held)
    assert TOKEN not in msgspec.json.encode(story).decode()
    by_type: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in story:
        by_type[line["type"]].append(line)
    assert {line["taskId"] for kind in ("workpad", "message", "permission", "reservation") for line in by_type[kind]} == {task_id}
    first, second = by_type["workpad"]
    assert (first["workpadVersion"], first["bodyMarkdown"], first["assignmentId"]) == (1, "# One\nghp_[redacted]", held)
    assert (second["workpadVersion"], second["bodyMarkdown"], second["assignmentId"]) == (2, "# Two", None)
    assert second["userId"]
    (message,) = by_type["message"]
    assert (message["messageId"], message["mode"], message["state"]) == (said["messageId"], "steer", "queued")
    denied, pending = by_type["permission"]
    assert (denied["permissionRequestId"], denied["status"], denied["details"]) == (
        asked["permissionRequestId"], "denied", {"API_TOKEN": "[redacted]"},
    )  # fmt: skip
    assert (pending["permissionRequestId"], pending["status"], pending["endedAt"]) == (
        open_["permissionRequestId"], "pending", None,
    )  # fmt: skip
    (reserved,) = by_type["reservation"]
    assert (reserved["path"], reserved["kind"], reserved["assignmentId"]) == ("src", "prefix", held)
    ready, announced = by_type["artifact"]
    assert (ready["artifactId"], ready["digest"], ready["state"]) == (
        artifact["artifactId"], artifact["digest"], "ready",
    )  # fmt: skip
    assert (announced["state"], announced["taskKey"]) == ("pending", None)
    after = [line["type"] for line in history(api, run)]
    assert "reservation" not in after


def test_what_tasks_made_and_waited_for_is_there_as_rows(api: Api) -> None:
    own, who = adapter(), api.sandbox()
    made = api.graph(task("parent", own, toolGrants=["flakes.tasks.spawn", "flakes.groups"]))
    run, task_id = made["run"]["runId"], made["tasks"][0]["taskId"]
    with sandbox(api, who, adapters=[own]) as peer:
        held = peer.start().assignment_id

        def ask(operation: str, **body: Any) -> dict[str, Any]:
            base = f"/v1/sandboxes/{who[0]}/assignments/{held}/operations"
            return api.as_(who[1]).post(f"{base}/{operation}", body).ok()

        group = ask("group.open", groupKey="drafts", name="Drafts")
        child = {"title": "c", "adapter": "nobody", "taskKey": "child", "liveRounds": True}
        spawned = ask("task.spawn", operationId="s", tasks=[child], group="drafts")
        ask("group.close", group="drafts")
        pending = ask("task.wait", operationId="w", on={"kind": "group", "group": "drafts"}, yields=False)
        ask("task.wait", operationId="v", on={"kind": "signal", "name": "go"}, yields=False)
        sent = api.post(f"/v1/tasks/{task_id}/signals/go", {"payload": {"token": TOKEN}}).ok(202)
        ask("round.send", operationId="r", task="child", prompt=f"Use {TOKEN}", roundKey="one")
        story = history(api, run)
        peer.finish(held)
    assert TOKEN not in msgspec.json.encode(story).decode()
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in story:
        rows[line["type"]].append(line)
    (shown,) = rows["group"]
    assert (shown["groupId"], shown["taskKey"], shown["status"], shown["counts"]["total"]) == (
        group["groupId"], "parent", "CLOSED", 1,
    )  # fmt: skip
    on_group, on_signal = rows["wait"]
    assert (on_group["waitId"], on_group["state"], on_group["groupId"]) == (
        pending["waitId"], "pending", group["groupId"],
    )  # fmt: skip
    (signal,) = rows["signal"]
    assert (signal["signalId"], signal["waitId"]) == (sent["signalId"], on_signal["waitId"])
    assert on_signal["state"] == "settled"
    (prompt,) = rows["round"]
    children = spawned["children"] if "children" in spawned else spawned["tasks"]
    assert (prompt["roundKey"], prompt["state"], prompt["taskId"]) == ("one", "PROMPTED", children[0]["taskId"])


def test_too_many_at_once_are_asked_to_come_again(api: Api) -> None:
    """Each export holds a connection and a snapshot, so there are few; and a reader that goes gives back."""
    own = adapter()
    made = api.graph(task("talks", own))
    run = made["run"]["runId"]
    with sandbox(api, adapters=[own]) as peer:
        one = peer.start()
        for n in range(60):
            peer.send(lines(one.assignment_id, *["x" * 8_000] * 50, first=50 * n))
        peer.acked(30)
        with httpx2.Client(base_url=api.url, headers=api.headers, timeout=30) as http:
            streams = [
                http.send(http.build_request("GET", f"/v1/runs/{run}/history.jsonl"), stream=True)
                for _ in range(EXPORTS_AT_ONCE_MAX)
            ]
            assert {stream.status_code for stream in streams} == {200}
            refused = api.get(f"/v1/runs/{run}/history.jsonl")
            refused.refused("rate_limited")
            assert refused.headers["retry-after"] == "1"
            for stream in streams:
                stream.close()
        wait_until(lambda: api.get(f"/v1/runs/{run}/history.jsonl").status == 200)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_run_of_10_000_tasks_costs_little_memory(server: Server) -> None:
    """A million lines of log and 10,000 tasks leave through less than 200 MiB."""
    api = server.account()
    api.put("/v1/projects/bench", {"name": "Bench"}).ok()
    with server.connect() as conn:
        conn.execute(FILL_RUN, {"run_id": LARGE, "key": "large", "count": 10_000})
    before, peak, lines, rest = resident_mib(server), 0.0, 0, b""
    types: Counter[bytes] = Counter()
    with (
        httpx2.Client(base_url=api.url, headers=api.headers, timeout=120) as http,
        http.stream("GET", f"/v1/runs/{LARGE}/history.jsonl") as response,
    ):
        assert response.status_code == 200
        for chunk in response.iter_bytes():
            *whole, rest = (rest + chunk).split(b"\n")
            lines += len(whole)
            types.update(line[12:30] for line in whole)
            peak = max(peak, resident_mib(server))
    assert rest == b""
    assert types[b',"type":"task","ta'] == 10_000
    assert lines == 1 + 10_000 * (1 + 1 + 3 + 100 + 1)
    assert peak < 200, f"{before:.0f} MiB before, {peak:.0f} MiB at most"


def resident_mib(server: Server) -> float:
    status = Path(f"/proc/{server.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
