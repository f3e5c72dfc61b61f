"""Workspaces over the API: handles and their packs, what a run selects, and what its tasks are given.

The server looks into no commit, so these are made up; tests/e2e has real ones.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from pathlib import Path
from typing import Any

from api.caller import Api, name, task
from api.peer import SandboxPeer, adapter, sandbox
from api.plane import Server
from api.routes import artifact_of, diffed
from browser.files import Files
from embedded_servers import wait_until
from flakes.store import workspaces
from flakes.wire.sandbox_stream import Assignment

CONTENT = b"not really a pack"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
PACK = {"digest": DIGEST, "sizeBytes": len(CONTENT)}


def body(**fields: Any) -> dict[str, Any]:
    made = {"commit": secrets.token_hex(20), "tree": secrets.token_hex(20), "packs": [PACK]}
    return made | fields


def bring(api: Api) -> None:
    api.post("/v1/artifacts", artifact_of(CONTENT) | {"kind": "workspace-pack"}).ok(201)


def stored(api: Api, **fields: Any) -> str:
    answer = api.post("/v1/workspaces", body(**fields))
    if answer.status == 409:
        bring(api)
        answer = api.post("/v1/workspaces", body(**fields))
    return answer.ok(201)["workspaceId"]


def started(
    api: Api, *tasks: dict[str, Any], workspace_id: str | None = None, **fields: Any
) -> dict[str, Any]:
    graph = {
        "name": "r",
        "projectKey": api.project(),
        "tasks": list(tasks),
        "workspaceId": workspace_id,
        **fields,
    }
    return api.post(f"/v1/runs/{name('run')}/graph", graph).ok(201)


class Peer:
    """A sandbox that takes the tasks of one adapter, and stores files for them."""

    def __init__(self, api: Api, peer: SandboxPeer, token: str) -> None:
        self.peer = peer
        self.api = api.as_(token)

    def store(self, assignment: Assignment, kind: str, **fields: Any) -> str:
        base = f"/v1/sandboxes/{self.peer.sandbox_id}"
        self.api.call("PUT", f"{base}/packs/{DIGEST}", content=CONTENT).ok(201)
        path = f"{base}/assignments/{assignment.assignment_id}/workspaces"
        return self.api.post(path, body(kind=kind, **fields)).ok(201)["workspaceId"]


def test_a_handle_needs_its_packs_and_takes_them_over(api: Api, other: Api) -> None:
    made = body()
    refused = api.post("/v1/workspaces", made).refused("workspace_packs_missing")
    assert refused["missing"] == [DIGEST]
    bring(api)
    handle = api.post("/v1/workspaces", made).ok(201)
    assert (handle["commit"], handle["packs"], handle["kind"]) == (
        made["commit"],
        [PACK],
        "snapshot",
    )
    assert api.get("/v1/artifacts").ok()["artifacts"] == [], "the pack is the handle's now"
    assert api.post("/v1/workspaces", made).ok(200) == handle
    assert api.post("/v1/workspaces", body()).ok(201)["packs"] == [PACK], "a known pack is enough"
    # That somebody has brought a pack is nobody else's to use.
    other.post("/v1/workspaces", made).refused("workspace_packs_missing")
    short = body(packs=[PACK | {"sizeBytes": 3}])
    api.post("/v1/workspaces", short).refused("workspace_packs_missing")
    for wrong in (
        {"kind": "output"},
        {"kind": "merged"},
        {"runId": "nightly"},
        {"packs": []},
        {"commit": "HEAD"},
    ):
        api.post("/v1/workspaces", made | wrong).refused("invalid_request")
    api.post("/v1/workspaces", body(baseWorkspaceId="ws_none")).refused("not_found")


def test_a_run_begins_from_files_and_a_second_one_from_its_result(api: Api, other: Api) -> None:
    first = stored(api)
    made = started(api, task("only"), workspace_id=first)["run"]
    assert made["workspaceId"] == first
    found = api.get(f"/v1/runs/{made['runId']}/workspaces").ok()
    assert [(r["name"], r["workspaceId"], r["version"]) for r in found["refs"]] == [
        ("selected", first, 1)
    ]
    assert [(p["mode"], p["toWorkspaceId"]) for p in found["promotions"]] == [("initial", first)]
    merged = stored(api, kind="merged", runId=made["runKey"], baseWorkspaceId=first)
    again = started(api, task("only"), workspace_id=merged)["run"]
    assert again["workspaceId"] not in (first, merged)
    commits = {
        api.get(f"/v1/workspaces/{each}").ok()["commit"] for each in (merged, again["workspaceId"])
    }
    assert len(commits) == 1
    api.delete(f"/v1/runs/{made['runId']}")
    graph = {"name": "r", "projectKey": other.project(), "tasks": [task("a")], "workspaceId": first}
    other.post(f"/v1/runs/{name('run')}/graph", graph).refused("not_found")


def test_a_run_put_with_other_files_is_another_run(api: Api) -> None:
    key, put = name("run"), {"name": "r", "projectKey": api.project(), "workspaceId": stored(api)}
    assert api.put(f"/v1/runs/{key}", put).ok(201)["workspaceId"] == put["workspaceId"]
    api.put(f"/v1/runs/{key}", put).ok(200)
    api.put(f"/v1/runs/{key}", put | {"workspaceId": stored(api)}).refused("run_conflict")


def test_promotions_compare_and_keep_their_history(api: Api) -> None:
    base = stored(api)
    run = started(api, task("only"), workspace_id=base)["run"]["runId"]
    path = f"/v1/runs/{run}/promotions"
    one, two = (stored(api, kind="merged", runId=run, baseWorkspaceId=base) for _ in range(2))
    done = api.post(path, {"workspaceId": one, "expectedWorkspaceId": base}).ok(200)
    assert (done["ref"]["version"], done["promotion"]["fromWorkspaceId"]) == (2, base)
    assert done["promotion"]["userId"] == api.get("/v1/me").ok()["userId"]
    assert api.post(path, {"workspaceId": one, "expectedWorkspaceId": base}).ok(200) == done, (
        "again"
    )
    stale = api.post(path, {"workspaceId": two, "expectedWorkspaceId": base}).refused(
        "workspace_base_stale"
    )
    assert stale["current"]["workspaceId"] == one
    # Not made from what is selected: it would take back what was promoted before.
    aside = api.post(path, {"workspaceId": two, "expectedWorkspaceId": one})
    assert aside.refused("workspace_base_stale")["current"]["version"] == 2
    both = stored(api, kind="merged", runId=run, baseWorkspaceId=one)
    api.post(path, {"workspaceId": both, "expectedWorkspaceId": one}).ok(200)
    api.post(path, {"workspaceId": both, "ref": "release"}).ok(200)
    found = api.get(f"/v1/runs/{run}/workspaces").ok()
    assert {r["name"]: r["version"] for r in found["refs"]} == {"release": 1, "selected": 3}
    assert [p["version"] for p in found["promotions"] if p["ref"] == "selected"] == [3, 2, 1]
    assert {w["workspaceId"] for w in found["workspaces"]} == {one, two, both}

    def told() -> list[str]:
        events = api.get(
            f"/v1/tasks/{api.get(f'/v1/runs/{run}/tasks').ok()['tasks'][0]['taskId']}/activity"
        )
        return [event["type"] for event in events.ok()["events"]]

    assert "workspace.promoted" not in told(), "these are the run's, and no task's"


def test_bounded_promotions_change_nothing_else(api: Api) -> None:
    base = stored(api)
    run = started(api, task("only"), workspace_id=base)["run"]["runId"]
    path = f"/v1/runs/{run}/promotions"
    scope = [{"path": "src", "kind": "prefix"}, {"path": "README", "kind": "exact"}]
    declared = stored(api, kind="merged", runId=run, baseWorkspaceId=base, paths=scope)
    wide = {"workspaceId": declared, "expectedWorkspaceId": base, "mode": "replace_bounded_paths"}
    refused = api.post(path, wide | {"paths": scope[:1]}).refused("workspace_path_refused")
    assert refused["paths"] == ["README"]
    done = api.post(path, wide).ok(200)
    assert done["promotion"]["paths"] == scope
    changes = [{"path": "docs/a.md", "kind": "added", "objectId": "1" * 40}]
    loose = stored(api, kind="merged", runId=run, baseWorkspaceId=declared, changes=changes)
    body = {"workspaceId": loose, "expectedWorkspaceId": declared, "mode": "replace_bounded_paths"}
    api.post(path, body).refused("invalid_request")
    api.post(path, body | {"paths": scope}).refused("workspace_path_refused")
    api.post(path, body | {"paths": [{"path": "docs", "kind": "prefix"}]}).ok(200)


def test_tasks_get_what_is_selected_or_what_their_dependencies_left(api: Api) -> None:
    own, who, base = adapter(), api.sandbox(), stored(api)
    made = started(
        api, task("a", own), task("b", own), task("idle", own, dependsOn=["a"]),
        task("after", own, dependsOn=["idle"]), task("both", own, dependsOn=["b", "a"]),
        workspace_id=base, merging={"promote": False},
    )  # fmt: skip
    run = made["run"]["runId"]
    with sandbox(api, who, adapters=[own]) as connected:
        peer = Peer(api, connected, who[1])
        left: dict[str, str] = {}
        offered: dict[str, Assignment] = {}
        for _ in range(5):
            given = connected.start()
            offered[given.task_key] = given
            assert given.workspace is not None
            if given.task_key in ("a", "b"):
                origin = given.workspace.handle.workspace_id
                peer.store(given, "candidate", baseWorkspaceId=origin)
                if given.task_key == "b":
                    second = peer.store(given, "output", baseWorkspaceId=origin)
                left[given.task_key] = peer.store(given, "output", baseWorkspaceId=origin)
            connected.finish(given.assignment_id)
        files = {key: given.workspace for key, given in offered.items()}
        assert files["a"].handle.workspace_id == files["b"].handle.workspace_id == base
        assert files["a"].mount == "work"
        assert (files["a"].selected.workspace_id, files["a"].selected.version) == (base, 1)
        assert files["idle"].handle.workspace_id == left["a"], "its declared output, not the rest"
        assert files["after"].handle.workspace_id == left["a"], (
            "what changed nothing hands on what it got"
        )
        both = files["both"]
        given_both = [both.handle.workspace_id, *(h.workspace_id for h in both.merge)]
        assert given_both == [second, left["b"], left["a"]], (
            "in the order that they are depended on"
        )
        blob = f"/v1/sandboxes/{who[0]}/packs/{DIGEST}"
        wait_until(lambda: api.get(f"/v1/runs/{run}").ok()["taskCounts"] == {"SUCCEEDED": 5})
        peer.api.get(blob).refused("not_found")
    found = api.get(f"/v1/runs/{run}/workspaces", taskId=offered["a"].task_id).ok()["workspaces"]
    assert [w["kind"] for w in found] == ["output", "candidate"]


def test_a_task_without_files_gets_none_and_names_its_own(api: Api) -> None:
    own, named = adapter(), stored(api)
    with sandbox(api, adapters=[own]) as peer:
        started(api, task("plain", own))
        plain = peer.start()
        assert (plain.workspace, plain.workspace_inputs) == (None, {})
        peer.finish(plain.assignment_id)
        started(api, task("named", own, workspaceInputs={"library": named}))
        given = peer.start()
        assert given.workspace is None
        assert given.workspace_inputs["library"].workspace_id == named
        peer.finish(given.assignment_id)
    path = f"/v1/runs/{api.run()['runKey']}/tasks"
    api.put(f"{path}/a", task("a", workspaceInputs={"x": "ws_none"})).refused("not_found")
    for mount in ("work", "../up", "UP"):
        api.put(f"{path}/a", task("a", workspaceInputs={mount: named})).refused("invalid_request")


def test_what_an_attempt_changed_is_kept_after_its_end_and_nothing_else(api: Api) -> None:
    own, who = adapter(), api.sandbox()
    started(api, task("only", own), workspace_id=stored(api))
    with sandbox(api, who, adapters=[own]) as connected:
        peer = Peer(api, connected, who[1])
        given = connected.start()
        base = f"/v1/sandboxes/{who[0]}"
        assert peer.api.get(f"{base}/packs/{DIGEST}").content == CONTENT
        assert peer.api.get(f"{base}/workspaces/{given.workspace.handle.workspace_id}").ok()
        connected.finish(given.assignment_id, "failed")
        wait_until(lambda: api.task(given.task_id)["status"] == "FAILED")
        path = f"{base}/assignments/{given.assignment_id}/workspaces"
        peer.api.post(path, body(kind="output")).refused("stale_assignment")
        kept = peer.api.post(path, body(kind="candidate")).ok(201)
        assert kept["taskId"] == given.task_id
        stranger = api.sandbox()
        path = f"/v1/sandboxes/{stranger[0]}/assignments/{given.assignment_id}/workspaces"
        api.as_(stranger[1]).post(path, body(kind="candidate")).refused("stale_assignment")


def test_what_an_attempt_leaves_that_yields_is_given_to_the_next_and_no_other(api: Api) -> None:
    own, who, base = adapter(), api.sandbox(), stored(api)
    line = task("only", own, retry={"maxAttempts": 3, "backoffS": 0})
    run = started(api, line, workspace_id=base)["run"]["runId"]
    with sandbox(api, who, adapters=[own]) as connected:
        peer = Peer(api, connected, who[1])

        def attempt(outcome: str, *stores: str) -> tuple[Assignment, list[str]]:
            given = connected.start()
            made = [base]
            for kind in stores:
                made.append(peer.store(given, kind, baseWorkspaceId=made[-1]))
            if outcome == "yielded":
                path = f"/v1/sandboxes/{who[0]}/assignments/{given.assignment_id}/operations/task.wait"
                wait = {"operationId": secrets.token_hex(4), "on": {"kind": "timer", "seconds": 0.05}, "yields": True}
                assert peer.api.post(path, wait).ok()["state"] == "pending"
            connected.finish(given.assignment_id, outcome)
            return given, made[1:]

        def gone_on_from(given: Assignment) -> list[tuple[str, str, str]]:
            return [(o.after, o.handle.workspace_id, o.base_workspace_id) for o in given.own_workspaces]

        first, (_, half) = attempt("yielded", "candidate", "candidate")
        second, _ = attempt("lost")
        third, (lost,) = attempt("lost", "candidate")
        fourth, (whole,) = attempt("yielded", "candidate")
        fifth, _ = attempt("failed", "candidate")
        sixth, _ = attempt("succeeded")
    assert gone_on_from(first) == []
    assert gone_on_from(second) == gone_on_from(third) == [("yielded", half, base)]
    assert gone_on_from(fourth) == [("lost", lost, base), ("yielded", half, base)]
    assert gone_on_from(fifth) == [("yielded", whole, base)]
    assert gone_on_from(sixth) == [], "a retry begins anew"
    assert sixth.workspace is not None
    assert sixth.workspace.handle.workspace_id == base
    assert len(api.get(f"/v1/runs/{run}/workspaces", taskId=first.task_id).ok()["workspaces"]) == 5


def test_snapshots_that_nobody_uses_go_in_time(server: Server, api: Api) -> None:
    used, unused = stored(api), stored(api)
    started(api, task("only"), workspace_id=used)
    statement = str(workspaces._FORGET_UNBOUND)
    with server.connect() as conn:
        ids = [used, unused]
        conn.execute(
            "update workspaces set used_at = now() - interval '8 days' where workspace_id = any(%s)",
            [ids],
        )
        conn.execute(statement, {"kept_s": workspaces.UNBOUND_KEPT_S, "limit": 100})
    api.get(f"/v1/workspaces/{unused}").refused("not_found")
    api.get(f"/v1/workspaces/{used}").ok()


def test_a_diff_comes_in_pages_and_holds_any_bytes(api: Api, other: Api) -> None:
    before = {
        "a.txt": b"one\n",
        "gone": b"x\n",
        "latin": b"caf\xe9\n",
        "pic": b"\0\1",
        "same": b"s\n",
    }
    after = {
        "a.txt": b"two\nthree\n", "latin": b"th\xe9\n", "pic": b"\0\2", "same": b"s\n",
        "big": b"line\n" * 300_000, "dir/new": b"no end of line",
    }  # fmt: skip
    base, new = diffed(api, before, after)
    path = f"/v1/workspaces/{new}/diff"
    whole = api.get(path).ok(200)
    assert (whole["fileCount"], whole["baseWorkspaceId"]) == (6, base)
    files = {each["path"]: each for each in whole["files"]}
    assert {key: (f["kind"], f.get("omitted")) for key, f in files.items()} == {
        "a.txt": ("changed", None), "big": ("added", "too_large"), "dir/new": ("added", None),
        "gone": ("removed", None), "latin": ("changed", None), "pic": ("changed", "binary"),
    }  # fmt: skip
    assert (files["a.txt"]["addedLines"], files["a.txt"]["removedLines"]) == (2, 1)
    assert files["dir/new"]["patch"].endswith("+no end of line\n\\ No newline at end of file\n")
    assert b"+th\xe9" in base64.b64decode(files["latin"]["patchBase64"])
    pages: list[dict[str, Any]] = []
    cursor = None
    while cursor is not None or not pages:
        page = api.get(path, limit=4, **({"cursor": cursor} if cursor else {})).ok(200)
        pages += page["files"]
        cursor = page.get("nextCursor")
    assert pages == whole["files"]
    bare = api.get(path, patches="false").ok(200)["files"]
    assert {each["omitted"] for each in bare} == {"not_asked"}
    back = api.get(f"/v1/workspaces/{base}/diff", base=new).ok(200)
    assert [each["kind"] for each in back["files"]] == [
        "changed", "removed", "removed", "added", "changed", "changed",
    ]  # fmt: skip
    api.get(f"/v1/workspaces/{base}/diff").refused("workspace_none")
    api.get(path, cursor="x").refused("invalid_request")
    other.get(path).refused("not_found")
    fake = stored(api, baseWorkspaceId=base)
    api.get(f"/v1/workspaces/{fake}/diff").refused("workspace_pack_damaged")


def test_a_file_that_became_a_directory(api: Api) -> None:
    _, new = diffed(api, {"a": b"x\n", "b": b"y\n"}, {"a/in": b"x\n", "b": b"z\n"})
    files = api.get(f"/v1/workspaces/{new}/diff").ok(200)["files"]
    assert [(each["path"], each["kind"]) for each in files] == [
        ("a", "removed"),
        ("a/in", "added"),
        ("b", "changed"),
    ]
    assert "-x" in files[0]["patch"]
    assert "+x" in files[1]["patch"]


def test_what_was_moved_is_one_file_when_asked_for(api: Api) -> None:
    text = "".join(f"line {n}\n" for n in range(40)).encode()
    before = {"a.txt": text, "dir/b.txt": b"other\n" + text, "kept": b"k\n", "same": b"s\n"}
    after = {"z.txt": text, "b.txt": b"another\n" + text, "kept": b"K\n", "same": b"s\n"}
    _, new = diffed(api, before, after)
    path = f"/v1/workspaces/{new}/diff"
    files = {f["path"]: f for f in api.get(path, renames="true").ok(200)["files"]}
    assert {key: (f["kind"], f.get("oldPath")) for key, f in files.items()} == {
        "b.txt": ("renamed", "dir/b.txt"), "kept": ("changed", None), "z.txt": ("renamed", "a.txt"),
    }  # fmt: skip
    assert (files["z.txt"]["alikePercent"], files["z.txt"]["addedLines"]) == (100, 0)
    assert (files["b.txt"]["addedLines"], files["b.txt"]["removedLines"]) == (1, 1)
    assert "rename from dir/b.txt\n" in files["b.txt"]["patch"]
    assert (files["kept"]["oldSizeBytes"], files["kept"]["newSizeBytes"]) == (2, 2)
    plain = [(f["path"], f["kind"]) for f in api.get(path).ok(200)["files"]]
    assert plain == [
        ("a.txt", "removed"), ("b.txt", "added"), ("dir/b.txt", "removed"), ("kept", "changed"), ("z.txt", "added"),
    ]  # fmt: skip


def test_a_file_that_became_a_link_has_both_parts(api: Api, tmp_path: Path) -> None:
    place = Files(tmp_path)
    base = place.begin(api, lambda root: (root / "now").write_text("a\nb\n"))
    git = Files(tmp_path / "other")
    new = git.begin(api, lambda root: (root / "now").symlink_to("there"))
    (file,) = api.get(f"/v1/workspaces/{new}/diff", base=base).ok(200)["files"]
    assert (file["oldMode"], file["newMode"]) == ("100644", "120000")
    assert (file["addedLines"], file["removedLines"]) == (1, 2)
    assert "+there" in file["patch"]


def test_with_a_run_its_files_go(api: Api) -> None:
    first = stored(api)
    run = started(api, task("only"), workspace_id=first)["run"]["runId"]
    merged = stored(api, kind="merged", runId=run, baseWorkspaceId=first)
    api.post(f"/v1/runs/{run}/cancel").ok(202)
    api.delete(f"/v1/runs/{run}").ok(200)
    api.get(f"/v1/workspaces/{merged}").refused("not_found")
    api.get(f"/v1/workspaces/{first}").ok()
