"""An engine of fixtures: what the world does with a harness, as a case says.

Every wait yields before it settles, so a case runs the module again from the top each time. Children end in
the order in which they were begun; timers fire when nothing else can happen.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from flakes.harness.cases import Case, Done, Fixture, FixtureChild
from flakes.harness.engine import Condition, Entry, Settled
from flakes.harness.errors import Diverged, HarnessError
from flakes.harness.live import ASKED

BEGIN_MS: Final = 1_767_225_600_000
STEP_MS: Final = 1_000
SNAPSHOT: Final = "fixture-of-the-case"


@dataclass(slots=True)
class _Child:
    seen: FixtureChild
    task_id: str
    ends: Fixture | None = None
    status: str = "RUNNING"
    finished_ms: int = 0
    finished: bool = False
    rounds: dict[str, tuple[str, Fixture]] = field(default_factory=dict)


class FixtureEngine:
    """See the module. `sealed`: nothing may be done any more; what is done is a divergence."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._entries: list[Entry] = []
        self._children: dict[str, _Child] = {}
        self._spawned: dict[str, list[str]] = {}
        self._groups: dict[str, dict[str, Any]] = {}
        self._signals = {name: list(values) for name, values in case.signals.items()}
        self._workpad = ("", 0)
        self._waits: dict[str, Settled] = {}
        self._refs = {"selected": SNAPSHOT} if case.files else {}
        self.promotions: list[str] = []
        self._ms = BEGIN_MS
        self._random = random.Random(case.seed)  # noqa: S311
        self._yielded: tuple[int, ...] = ()
        self.lines: list[str] = []
        self.sealed = False

    @property
    def count(self) -> int:
        """Children so far."""
        return len(self._children)

    # ---- engine

    def read_journal(self, after: int) -> tuple[list[Entry], bool]:
        found = self._entries[after : after + 100]
        return json.loads(json.dumps(found)), after + len(found) < len(self._entries)

    def append_journal(self, at: int, entries: Sequence[Entry]) -> None:
        self._check("write to its journal")
        assert at <= len(self._entries)
        self._entries[at:] = json.loads(json.dumps(list(entries)))

    def perform(self, operation: str, body: dict[str, Any]) -> Any:
        self._check(operation)
        perform = getattr(self, "_" + operation.replace(".", "_"), None)
        if perform is None:
            raise HarnessError("not_available", f"cases have no {operation}", "leave it out of what cases reach")
        return perform(body)

    def wait(self, conditions: Sequence[Condition], hold_s: float | None) -> list[Settled]:
        self._check("wait")
        known = [self._waits[each.name] for each in conditions if each.name in self._waits]
        if known:
            return known
        found = self._look(conditions)
        self._waits |= {each.name: settled for each in conditions for settled in found if settled.id == each.id}
        return found

    def _look(self, conditions: Sequence[Condition]) -> list[Settled]:
        asked = tuple(each.id for each in conditions)
        if asked != self._yielded:
            self._yielded = asked
            return []
        for each in self._running():
            if settled := self._settled(conditions):
                return settled
            self._end(each)
        return self._settled(conditions) or self._fire(conditions)

    def now_ms(self) -> int:
        return self._ms

    def random(self) -> float:
        return self._random.random()

    def say(self, line: str) -> None:
        self.lines.append(line)

    # ---- what happens

    def _settled(self, conditions: Sequence[Condition]) -> list[Settled]:
        found: list[Settled] = []
        for each in conditions:
            about = each.about
            if each.kind == "children":
                ended = [self._children[key] for key in about["taskIds"] if self._children[key].status != "RUNNING"]
                if len(ended) >= about["need"]:
                    found.append(Settled(each.id, [_body(child) for child in ended]))
            elif each.kind == "group" and (status := self._stands(about["group"])) != "CLOSED":
                members = [self._children[key] for key in about["taskIds"] if self._children[key].status != "RUNNING"]
                found.append(Settled(each.id, {"status": status, "children": [_body(child) for child in members]}))
            elif each.kind == "signal" and self._signals.get(about["name"]):
                found.append(Settled(each.id, self._signals[about["name"]].pop(0)))
            elif each.kind == "round" and (ended := self._round_ended(about)) is not None:
                found.append(Settled(each.id, ended))
            elif each.kind == "timer" and about["dueMs"] <= self._ms:
                found.append(Settled(each.id, None))
        return found

    def _fire(self, conditions: Sequence[Condition]) -> list[Settled]:
        timers = [each for each in conditions if each.kind == "timer"]
        if not timers:
            names = ", ".join(f"{each.kind} {each.about.get('name', '')}".strip() for each in conditions)
            raise HarnessError("harness_stuck", f"the case never settles: {names}", "give the case the signal")
        self._ms = max(self._ms, min(each.about["dueMs"] for each in timers))
        return self._settled(timers)

    def _running(self) -> list[_Child]:
        running = [each for each in self._children.values() if each.status == "RUNNING"]
        return [each for each in running if not each.seen.definition.get("liveRounds") or each.finished]

    def _end(self, child: _Child) -> None:
        ends = self._case.children(child.seen)
        missing = [
            name for name, each in (child.seen.definition.get("declaredOutputs") or {}).items()
            if each.get("required", True) and isinstance(ends, Done) and name not in ends.outputs and each["kind"] != "workspace"
        ]  # fmt: skip
        if missing:
            raise HarnessError(
                "case_invalid", f"the case ends `{child.seen.key}` without its output `{missing[0]}`",
                f'give it: `Done(outputs={{"{missing[0]}": ...}})`',
            )  # fmt: skip
        self._ms += STEP_MS
        child.ends, child.finished_ms = ends, self._ms
        child.status = "SUCCEEDED" if isinstance(ends, Done) else "FAILED"

    def _members(self, key: str) -> list[_Child]:
        return [each for each in self._children.values() if each.seen.group == key]

    def _stands(self, key: str) -> str:
        group, members = self._groups[key], self._members(key)
        live = sum(each.status == "RUNNING" for each in members)
        good = sum(each.status == "SUCCEEDED" for each in members)
        if group.get("cancelled"):
            return "CANCELLED"
        need = {"first": 1, "quorum": group.get("quorum")}.get(group["join"])
        if need is not None:
            return "SUCCEEDED" if good >= need else "CLOSED" if good + live >= need else "FAILED"
        if live:
            return "CLOSED"
        return "SUCCEEDED" if group["join"] == "all_settled" or good == len(members) else "FAILED"

    # ---- operations

    def _task_spawn(self, body: dict[str, Any]) -> Any:
        ids = self._spawned.get(body["operationId"])
        if ids is None:
            self._check_budget(len(body["tasks"]))
            ids = [self._spawn(each, body.get("group")) for each in body["tasks"]]
            self._spawned[body["operationId"]] = ids
        return {"children": [{"taskId": each, "taskKey": self._children[each].seen.key} for each in ids]}

    def _check_budget(self, more: int) -> None:
        limit = self._case.budget.get("children")
        if limit is not None and self.count + more > limit:
            raise HarnessError(
                "budget_exhausted", f"the task has made {self.count} of the {limit} children that its budget allows",
                "make fewer, or give the case a larger `budget`",
            )  # fmt: skip

    def _budget_read(self, _: dict[str, Any]) -> Any:
        spent = {"tokens": 0, "costMicroUsd": 0, "wallMs": 0, "children": self.count}
        bounds = [
            {"bound": name, "limit": limit, "spent": spent[name], "left": max(0, limit - spent[name])}
            for name, limit in self._case.budget.items()
        ]
        return {"spent": spent, "bounds": bounds}

    def _spawn(self, task: dict[str, Any], group: str | None) -> str:
        key = task["taskKey"]
        if any(each.seen.key == key for each in self._children.values()):
            raise HarnessError("child_invalid", f"the run has a task `{key}` already", "choose another key")
        work = task.get("input") or {}
        command = work.get("shell") or " ".join(work.get("argv") or ())
        seen = FixtureChild(
            key, task["title"], task["adapter"], task.get("bodyMarkdown", ""), command, len(self._children), group,
            tuple(task.get("dependsOn") or ()), tuple(task.get("declaredOutputs") or ()), task,
        )  # fmt: skip
        task_id = f"task_{len(self._children):04}"
        self._children[task_id] = _Child(seen, task_id)
        return task_id

    def _task_cancel(self, body: dict[str, Any]) -> Any:
        for each in body["tasks"]:
            self._cancel(self._children[each])
        return {}

    def _group_open(self, body: dict[str, Any]) -> Any:
        self._groups[body["groupKey"]] = dict(body)
        return {"groupKey": body["groupKey"], "status": "OPEN"}

    def _group_close(self, body: dict[str, Any]) -> Any:
        self._groups[body["group"]]["closed"] = True
        return {"status": self._stands(body["group"])}

    def _group_status(self, body: dict[str, Any]) -> Any:
        members = self._members(body["group"])
        counts = {"total": len(members), "live": sum(each.status == "RUNNING" for each in members)}
        closed = self._groups[body["group"]].get("closed")
        return {"status": self._stands(body["group"]) if closed else "OPEN", "counts": counts}

    def _group_cancel(self, body: dict[str, Any]) -> Any:
        for each in self._members(body["group"]):
            self._cancel(each)
        self._groups[body["group"]]["cancelled"] = True
        return {}

    def _cancel(self, child: _Child) -> None:
        if child.status == "RUNNING":
            child.status, child.finished_ms = "CANCELLED", self._ms

    def _round_send(self, body: dict[str, Any]) -> Any:
        child = self._named(body["task"])
        if body["roundKey"] not in child.rounds:
            said = body["prompt"].partition(ASKED)[0]
            does = self._case.round(child.seen, said, len(child.rounds))
            child.rounds[body["roundKey"]] = (said, does)
        return {"roundKey": body["roundKey"], "state": "PROMPTED"}

    def _round_finish(self, body: dict[str, Any]) -> Any:
        self._named(body["task"]).finished = True
        return {"rounds": []}

    def _round_list(self, body: dict[str, Any]) -> Any:
        rounds = self._named(body["task"]).rounds
        return {"rounds": [{"roundKey": key, "prompt": prompt} for key, (prompt, _) in rounds.items()]}

    def _round_ended(self, about: dict[str, Any]) -> dict[str, Any] | None:
        child = self._named(about["task"])
        _, does = child.rounds[about["roundKey"]]
        body = {"taskId": child.task_id, "taskKey": child.seen.key}
        if isinstance(does, Done):
            outputs = {name: _told(each) for name, each in does.outputs.items()}
            return body | {"status": "COMPLETED", "text": does.text, "outputs": outputs}
        return body | {"status": "FAILED", "error": {"code": does.code, "message": does.reason}, "outputs": {}}

    def _named(self, name: str) -> _Child:
        found = next((each for each in self._children.values() if name in (each.seen.key, each.task_id)), None)
        if found is None:
            raise HarnessError("child_invalid", f"there is no child `{name}`", "begin it first")
        return found

    def _run_tasks(self, _: dict[str, Any]) -> Any:
        return {"tasks": [
            {"taskId": each.task_id, "taskKey": each.seen.key, "title": each.seen.title, "adapter": each.seen.adapter, "status": each.status}
            for each in self._children.values()
        ]}  # fmt: skip

    def _workspace_selected(self, body: dict[str, Any]) -> Any:
        found = self._refs.get(body.get("ref", "selected"))
        return {"workspace": {"workspaceId": found}} if found else {}

    def _workspace_promote(self, body: dict[str, Any]) -> Any:
        ref = body.get("ref", "selected")
        if self._refs.get(ref) != body.get("expectedWorkspaceId"):
            raise HarnessError("workspace_base_stale", f"the run has selected {self._refs.get(ref)}", "look at it again")
        self._refs[ref] = body["workspaceId"]
        self.promotions.append(body["workspaceId"])
        return {}

    def _workspace_diff(self, body: dict[str, Any]) -> Any:
        changed = sorted(self._files(body.get("workspaceId")).items() - self._files(body.get("base")).items())
        changes = [{"path": path, "kind": "changed"} for path, _ in changed]
        return {"changes": changes, "changeCount": len(changes), "patch": "".join(f"+++ {path}\n+{text}\n" for path, text in changed)}

    def _files(self, workspace: str | None) -> dict[str, str]:
        if workspace is None or workspace == SNAPSHOT:
            return dict(self._case.files)
        child = self._named(workspace.removeprefix("fixture-"))
        return dict(self._case.files) | (dict(child.ends.files) if isinstance(child.ends, Done) else {})

    def _workpad_read(self, _: dict[str, Any]) -> Any:
        return {"bodyMarkdown": self._workpad[0], "version": self._workpad[1]}

    def _task_workpad(self, body: dict[str, Any]) -> Any:
        ends = self._named(body["task"]).ends
        return {"bodyMarkdown": ends.workpad if isinstance(ends, Done) else "", "version": 0}

    def _workpad_save(self, body: dict[str, Any]) -> Any:
        if body["baseVersion"] == self._workpad[1]:
            self._workpad = (body["bodyMarkdown"], self._workpad[1] + 1)
        return {"version": self._workpad[1]}

    def _inbox_read(self, _: dict[str, Any]) -> Any:
        return {"messages": []}

    def _task_output(self, body: dict[str, Any]) -> Any:
        child = next((each for each in self._children.values() if body["task"] in (each.seen.key, each.task_id)), None)
        found = _outputs(child).get(body["outputKey"]) if child is not None else None
        if found is None:
            raise HarnessError("output_missing", f"there is no output {body['task']}/{body['outputKey']}", "give it in the case")
        data = found["text"].encode()
        return {"sizeBytes": len(data), "bytesBase64": base64.b64encode(data[body["offset"] :]).decode()}

    def _check(self, what: str) -> None:
        if self.sealed:
            raise Diverged(f"the replay of a finished run wants to {what}")


def _body(child: _Child) -> dict[str, Any]:
    body: dict[str, Any] = {
        "taskId": child.task_id, "taskKey": child.seen.key, "status": child.status,
        "finishedAt": datetime.fromtimestamp(child.finished_ms / 1000, UTC).isoformat(), "outputs": _outputs(child),
    }  # fmt: skip
    if isinstance(child.ends, Done):
        body["text"] = child.ends.text
        if child.ends.files and not any(each["kind"] == "workspace" for each in body["outputs"].values()):
            body["workspaceId"] = f"fixture-{child.seen.key}"
    elif child.ends is not None:
        body["error"] = {"code": child.ends.code, "message": child.ends.reason}
    return body


def _outputs(child: _Child | None) -> dict[str, Any]:
    if child is None or not isinstance(child.ends, Done):
        return {}
    declared = child.seen.definition.get("declaredOutputs") or {}
    found: dict[str, Any] = {}
    for name, each in declared.items():
        if each["kind"] == "workspace":
            found[name] = {"kind": "workspace", "workspaceId": f"fixture-{child.seen.key}"}
        elif name in child.ends.outputs:
            value = child.ends.outputs[name]
            found[name] = {"kind": each["kind"], "text": value if each["kind"] == "text" else json.dumps(value)}
    return found


def _told(value: Any) -> dict[str, Any]:
    """An output of a round: text as it is, and JSON."""
    if isinstance(value, str):
        return {"kind": "text", "text": value}
    return {"kind": "json", "text": json.dumps(value)}
