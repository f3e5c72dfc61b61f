"""The promotion queue of a real server over real packs: what attempts left is brought in, tested, resolved or kept."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from api.caller import Api, task
from api.peer import SandboxPeer, adapter, sandbox
from api.routes import artifact_of
from api.test_history import history
from api.test_workspaces import started
from embedded_servers import wait_until
from flakes.wire.codec import convert
from flakes.wire.sandbox_stream import Assignment
from flakes.wire.workspaces import WorkspaceHandle
from flakes.workspace import packs
from flakes.workspace.changes import changes
from flakes.workspace.commits import commit, tree_of
from flakes.workspace.git import Git

BASE = {"a.txt": "one\ntwo\nthree\n", "b.txt": "b\n"}


@dataclass
class Setting:
    """A sandbox that takes the tasks of one adapter, and git to make what they would have left."""

    api: Api
    peer: SandboxPeer
    token: str
    own: str
    git: Git
    tmp: Path

    def tree(self, files: dict[str, str]) -> str:
        lines = []
        for name, text in sorted(files.items()):
            made = self.git.run("hash-object", "-w", "--stdin", stdin=text.encode()).decode().strip()
            lines.append(f"100644 blob {made}\t{name}")
        return self.git.run("mktree", stdin=("\n".join(lines) + "\n").encode()).decode().strip()

    def snapshot(self) -> WorkspaceHandle:
        made = commit(self.git, self.tree(BASE), "base")
        path = self.tmp / "base.pack"
        packs.pack(self.git, made, to=path)
        self.api.post(
            "/v1/artifacts", artifact_of(path.read_bytes()) | {"kind": "workspace-pack"}
        ).ok(201)
        pack = {"digest": digest_of(path), "sizeBytes": path.stat().st_size}
        body = {"commit": made, "tree": tree_of(self.git, made), "packs": [pack]}
        return convert(self.api.post("/v1/workspaces", body).ok(), WorkspaceHandle)

    def leave(self, given: Assignment, kind: str = "candidate", **files: str) -> str:
        """Store what a task would have left: the files it found, and in them these."""
        base = given.workspace_inputs.get("work") or (given.workspace and given.workspace.handle)
        assert base
        self.know(base)
        listed = self.git.text("ls-tree", "--name-only", base.commit).split("\n")
        found = {n: self.git.run("cat-file", "blob", f"{base.commit}:{n}").decode() for n in listed}
        tree = self.tree(found | {n.replace("_", "."): text for n, text in files.items()})
        made = commit(
            self.git, tree, given.task_key, parents=[base.commit], trailers={"A": given.assignment_id}
        )
        path = self.tmp / f"{made}.pack"
        size_bytes = packs.pack(self.git, made, without=[base.commit], to=path)
        side = f"/v1/sandboxes/{self.peer.sandbox_id}"
        self.speaking.call("PUT", f"{side}/packs/{digest_of(path)}", content=path.read_bytes()).ok(201)
        listed_changes = [
            {"path": c.path, "kind": c.kind, "objectId": c.new_id}
            for c in changes(self.git, base.commit, made)
        ]
        body = {
            "commit": made, "tree": tree, "kind": kind, "baseWorkspaceId": base.workspace_id,
            "packs": [{"digest": p.digest, "sizeBytes": p.size_bytes} for p in base.packs]
            + [{"digest": digest_of(path), "sizeBytes": size_bytes}],
            "changes": listed_changes, "changeCount": len(listed_changes),
        }  # fmt: skip
        answer = self.speaking.post(f"{side}/assignments/{given.assignment_id}/workspaces", body)
        return answer.ok(201)["workspaceId"]

    def know(self, handle: WorkspaceHandle) -> None:
        """Fetch what a handle needs, as its owner."""
        for pack in handle.packs:
            path = self.tmp / "fetched.pack"
            side = f"/v1/workspaces/{handle.workspace_id}/packs/{pack.digest}"
            path.write_bytes(self.api.get(side).content)
            packs.take_in(self.git, path)

    @property
    def speaking(self) -> Api:
        return self.api.as_(self.token)

    def begin(self, *keys: str, **fields: Any) -> tuple[str, dict[str, Assignment]]:
        """A closed run of these tasks, all of which are under way; its id, and they by key."""
        tasks = [task(key, self.own, bodyMarkdown=f"The brief of {key}.") for key in keys]
        made = started(
            self.api, *tasks, workspace_id=self.snapshot().workspace_id, close=True, **fields
        )
        begun = [self.peer.start() for _ in keys]
        return made["run"]["runId"], {each.task_key: each for each in begun}

    def run(self, run_id: str) -> dict[str, Any]:
        return self.api.get(f"/v1/runs/{run_id}").ok()

    def states(self, run_id: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for merge in self.api.get(f"/v1/runs/{run_id}/workspaces").ok()["merges"]:
            found.setdefault(merge["taskKey"], []).append(merge["state"])
        return found

    def over(self, run_id: str, state: str = "SUCCEEDED") -> None:
        wait_until(lambda: self.run(run_id).get("completedAt") is not None)
        assert self.run(run_id)["state"] == state

    def selected(self, run_id: str) -> dict[str, str]:
        """The files that the run has selected."""
        (ref,) = self.api.get(f"/v1/runs/{run_id}/workspaces").ok()["refs"]
        handle = convert(self.api.get(f"/v1/workspaces/{ref['workspaceId']}").ok(), WorkspaceHandle)
        self.know(handle)
        self.git.run("fsck", "--strict", handle.commit)
        names = self.git.text("ls-tree", "--name-only", handle.commit).split("\n")
        return {n: self.git.run("cat-file", "blob", f"{handle.commit}:{n}").decode() for n in names}


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.fixture
def setting(api: Api, tmp_path: Path) -> Iterator[Setting]:
    own, who = adapter(), api.sandbox()
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(sandbox(api, who, adapters=[own, "command"]))
        yield Setting(api, peer, who[1], own, Git.at(tmp_path / "git"), tmp_path)


def test_results_are_brought_in_as_they_come_and_a_conflict_stays_a_candidate(
    setting: Setting,
) -> None:
    run_id, given = setting.begin("first", "second", "third", "fourth")
    setting.leave(given["first"], a_txt="1\ntwo\nthree\n")
    setting.leave(given["second"], b_txt="B\n", c_txt="new\n")
    clash = setting.leave(given["third"], a_txt="I\ntwo\nthree\n")
    setting.leave(given["fourth"], a_txt="one\ntwo\n3\n")
    for key in ("first", "second", "third", "fourth"):
        setting.peer.finish(given[key].assignment_id)
    setting.over(run_id)
    assert setting.states(run_id) == {
        "first": ["promoted"], "second": ["promoted"], "third": ["conflict"], "fourth": ["promoted"],
    }  # fmt: skip
    assert setting.selected(run_id) == {"a.txt": "1\ntwo\n3\n", "b.txt": "B\n", "c.txt": "new\n"}
    told = setting.api.explained(given["third"].task_id)
    assert told["code"] == "merge_conflict"
    assert told["evidence"]["workspaceId"] == clash
    assert told["evidence"]["paths"] == ["a.txt"]
    assert "a.txt" in told["sentence"]
    path = f"/v1/tasks/{given['third'].task_id}/activity"
    events = {e["type"]: e["data"] for e in setting.api.get(path).ok()["events"]}
    assert events["workspace.candidate_conflict"]["paths"] == ["a.txt"]
    found = setting.api.get(f"/v1/runs/{run_id}/workspaces").ok()
    promotions = found["promotions"]
    assert [p["version"] for p in promotions] == [4, 3, 2, 1]
    assert promotions[0]["assignmentId"] == given["fourth"].assignment_id
    # All of it leaves with the history of the run, as it is.
    rows = history(setting.api, run_id)
    told = [line for line in rows if line["type"] == "promotion"]
    assert [(p["refVersion"], p["fromWorkspaceId"], p["toWorkspaceId"]) for p in told] == [
        (p["version"], p.get("fromWorkspaceId"), p["toWorkspaceId"]) for p in reversed(promotions)
    ]
    merges = {line["workspaceId"]: line for line in rows if line["type"] == "merge"}
    assert {k: m["state"] for k, m in merges.items()} == {m["workspaceId"]: m["state"] for m in found["merges"]}
    assert merges[clash]["paths"] == ["a.txt"]
    handles = {line["workspaceId"]: line for line in rows if line["type"] == "workspace"}
    began = setting.run(run_id)["workspaceId"]
    assert set(handles) == {w["workspaceId"] for w in found["workspaces"]} | {began}
    for shown in found["workspaces"]:
        for field in ("commit", "tree", "kind", "packs", "createdAt"):
            assert handles[shown["workspaceId"]][field] == shown[field], field


def test_conflicts_are_predicted_among_what_waits_and_with_what_is_selected(setting: Setting) -> None:
    run_id, given = setting.begin("first", "second", "third", "fourth")

    def predicted() -> set[tuple[str, str | None, tuple[str, ...]]]:
        # Told of all, on however short a page.
        found = setting.api.get(f"/v1/runs/{run_id}/workspaces", conflicts="true", limit=1).ok()
        return {(p["taskKey"], p.get("withTaskKey"), tuple(p["paths"])) for p in found["predicted"]}

    assert predicted() == set()
    setting.leave(given["first"], a_txt="1\ntwo\nthree\n")
    setting.leave(given["second"], a_txt="I\ntwo\nthree\n")
    setting.leave(given["third"], b_txt="B\n")
    assert predicted() == {("second", "first", ("a.txt",))}
    assert predicted() == {("second", "first", ("a.txt",))}, "remembered"
    setting.leave(given["second"], a_txt="I\ntwo\nthree\n", b_txt="b2\n")
    for key in ("first", "third"):
        setting.peer.finish(given[key].assignment_id)
    wait_until(lambda: setting.states(run_id).get("third") == ["promoted"])
    wait_until(lambda: predicted() >= {("second", None, ("a.txt", "b.txt"))})
    for key in ("second", "fourth"):
        setting.peer.finish(given[key].assignment_id)
    setting.over(run_id)
    assert ("second", None, ("a.txt", "b.txt")) in predicted(), "and after it has ended"
    plain = setting.api.get(f"/v1/runs/{run_id}/workspaces").ok()
    assert "predicted" not in plain


def test_a_run_is_not_over_before_its_results_are_brought_in(setting: Setting) -> None:
    run_id, given = setting.begin("only", merging={"verify": ["true"]})
    setting.leave(given["only"], a_txt="1\n")
    setting.leave(given["only"], a_txt="2\n")
    setting.peer.finish(given["only"].assignment_id)
    test = setting.peer.start()
    assert test.task_key == "test-only"
    run = setting.run(run_id)
    assert (run["state"], run.get("completedAt")) == ("RUNNING", None)
    assert setting.api.explained(given["only"].task_id)["code"] == "merge_pending"
    assert test.definition is not None
    assert (test.definition.adapter, test.definition.verify) == ("command", ["true"])
    assert test.workspace_inputs["work"].kind == "merged"
    setting.leave(test, c_txt="left by the test\n")
    setting.peer.finish(test.assignment_id)
    setting.over(run_id)
    assert setting.states(run_id) == {"only": ["kept", "promoted"], "test-only": ["kept"]}
    assert setting.selected(run_id) == BASE | {"a.txt": "2\n"}


def test_what_does_not_pass_is_not_selected(setting: Setting) -> None:
    run_id, given = setting.begin("only", merging={"verify": ["false"]})
    setting.leave(given["only"], a_txt="1\n")
    setting.peer.finish(given["only"].assignment_id)
    setting.peer.finish(setting.peer.start().assignment_id, "failed")
    setting.over(run_id, "FAILED")
    assert setting.selected(run_id) == BASE
    assert setting.states(run_id) == {"only": ["unverified"]}
    assert setting.api.explained(given["only"].task_id)["code"] == "merge_refused"


def test_what_was_tested_is_merged_anew_when_something_else_was_selected_meanwhile(
    setting: Setting,
) -> None:
    run_id, given = setting.begin("first", "second", merging={"verify": ["true"]})
    base = given["first"].workspace
    assert base is not None
    setting.leave(given["first"], a_txt="1\n")
    aside = setting.leave(given["second"], b_txt="2\n")
    setting.peer.finish(given["first"].assignment_id)
    test = setting.peer.start()
    move = {"workspaceId": aside, "expectedWorkspaceId": base.handle.workspace_id}
    setting.api.post(f"/v1/runs/{run_id}/promotions", move).ok(200)
    setting.peer.finish(test.assignment_id)
    again = setting.peer.start()
    assert again.task_key == "test-first-2"
    setting.peer.finish(again.assignment_id)
    setting.peer.finish(given["second"].assignment_id)
    setting.over(run_id)
    assert setting.selected(run_id) == {"a.txt": "1\n", "b.txt": "2\n"}
    assert setting.states(run_id) == {"first": ["promoted"], "second": ["contained"]}


@pytest.mark.parametrize("well", [True, False], ids=["resolved", "markers left"])
def test_a_conflict_is_resolved_by_a_task_that_knows_both_sides(setting: Setting, well: bool) -> None:
    resolver = {"adapter": setting.own, "bodyMarkdown": "Be kind."}
    run_id, given = setting.begin("first", "second", "third", merging={"resolver": resolver})
    setting.leave(given["first"], a_txt="1\ntwo\nthree\n")
    setting.leave(given["second"], a_txt="I\ntwo\nthree\n")
    setting.leave(given["third"], b_txt="3\n")
    for key in ("first", "second", "third"):
        setting.peer.finish(given[key].assignment_id)
    helper = setting.peer.start()
    assert helper.definition is not None
    assert helper.task_key == "resolve-second"
    for part in ("Be kind.", "`a.txt`", "The brief of first.", "The brief of second."):
        assert part in helper.definition.body_markdown
    work = helper.workspace_inputs["work"]
    setting.know(work)
    marked = setting.git.run("cat-file", "blob", f"{work.commit}:a.txt").decode()
    assert "<<<<<<<" in marked
    setting.leave(helper, a_txt="1 and I\ntwo\nthree\n" if well else marked + "more\n")
    setting.peer.finish(helper.assignment_id)
    setting.over(run_id)
    expected = ["promoted"] if well else ["conflict"]
    assert setting.states(run_id) == {
        "first": ["promoted"], "second": expected, "resolve-second": expected, "third": ["promoted"],
    }  # fmt: skip
    text = "1 and I\ntwo\nthree\n" if well else "1\ntwo\nthree\n"
    assert setting.selected(run_id) == {"a.txt": text, "b.txt": "3\n"}


def test_what_failed_or_was_cancelled_is_kept_and_holds_nothing_up(setting: Setting) -> None:
    run_id, given = setting.begin("good", "bad")
    setting.leave(given["bad"], a_txt="bad\n")
    setting.leave(given["good"], "output", a_txt="good\n")
    setting.leave(given["good"], c_txt="beside\n")
    setting.peer.finish(given["bad"].assignment_id, "failed")
    setting.peer.finish(given["good"].assignment_id)
    setting.over(run_id, "FAILED")
    assert setting.states(run_id) == {"bad": ["kept"], "good": ["promoted", "kept"]}
    assert setting.selected(run_id) == BASE | {"a.txt": "good\n"}
    cancelled, given = setting.begin("only", merging={"verify": ["true"]})
    setting.leave(given["only"], a_txt="x\n")
    setting.peer.finish(given["only"].assignment_id)
    test = setting.peer.start()
    setting.api.post(f"/v1/runs/{cancelled}/cancel", {}).ok()
    setting.peer.finish(test.assignment_id, "cancelled")
    setting.over(cancelled, "CANCELLED")
    assert setting.states(cancelled) == {"only": ["kept"]}


def test_files_that_cannot_be_merged_are_told_and_hold_nothing_up(setting: Setting) -> None:
    run_id, given = setting.begin("first", "second")
    setting.leave(given["first"], a_txt="1\n")
    side = f"/v1/sandboxes/{setting.peer.sandbox_id}"
    broken = b"no pack at all"
    digest = f"sha256:{hashlib.sha256(broken).hexdigest()}"
    setting.speaking.call("PUT", f"{side}/packs/{digest}", content=broken).ok(201)
    body = {"commit": "1" * 40, "tree": "2" * 40, "kind": "candidate",
            "changeCount": 1, "packs": [{"digest": digest, "sizeBytes": len(broken)}]}  # fmt: skip
    path = f"{side}/assignments/{given['second'].assignment_id}/workspaces"
    setting.speaking.post(path, body).ok(201)
    setting.peer.finish(given["first"].assignment_id)
    setting.peer.finish(given["second"].assignment_id)
    setting.over(run_id)
    assert setting.states(run_id) == {"first": ["promoted"], "second": ["failed"]}
    told = setting.api.explained(given["second"].task_id)
    assert told["code"] == "merge_refused"
    assert "cannot be used" in told["evidence"]["reason"]
