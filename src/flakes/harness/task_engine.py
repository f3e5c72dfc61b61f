"""The engine of a running task: its journal, operations and waits, over the socket of its tools."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from flakes.harness.engine import Condition, Entry, Settled
from flakes.harness.errors import HarnessError
from flakes.harness.link import Link

HOLD_S: Final = 1.0
RESULTS_MAX: Final = 256
"""Results of children in one request."""
FETCHED_BYTES_MAX: Final = 4 * 1024 * 1024
"""Outputs that come with the results of one wait; others are read by themselves."""


class TaskEngine:
    """See the module; `engine.Engine`. `say` takes lines for the log."""

    def __init__(self, link: Link, say: Callable[[str], None]) -> None:
        self._link = link
        self._say = say

    def read_journal(self, after: int) -> tuple[list[Entry], bool]:
        try:
            found = self._link.ask("journal.read", {"after": after})
            return [json.loads(each) for each in found["entries"]], found["more"]
        except (HarnessError, ValueError) as error:
            raise HarnessError("journal_unreadable", f"the journal cannot be read: {error}", "see the server's log, and retry the task") from error

    def append_journal(self, at: int, entries: Sequence[Entry]) -> None:
        try:
            self._link.ask("journal.append", {"at": at, "entries": [json.dumps(each) for each in entries]})
        except HarnessError as error:
            raise HarnessError("journal_full", f"the journal takes no more: {error.message}", error.fix) from error

    def perform(self, operation: str, body: dict[str, Any]) -> Any:
        try:
            return self._link.ask(operation, body)
        except HarnessError as error:
            saved = error.details.get("current") or {}
            if operation == "workpad.save" and saved.get("bodyMarkdown") == body["bodyMarkdown"]:
                return saved  # it was saved before, and the answer was lost
            raise

    def wait(self, conditions: Sequence[Condition], hold_s: float | None) -> list[Settled]:
        """Asked for one by one: held on the first, and yielded on all when none has settled by then."""
        hold_s = HOLD_S if hold_s is None else hold_s
        if len(conditions) > 1:
            settled = [found for each in conditions if (found := self._look(each)) is not None]
            if settled:
                return settled
        settled = [found for each in conditions[:1] if (found := self._look(each, hold_s=hold_s)) is not None]
        for each in conditions if not settled else ():
            found = self._look(each, yields=True)
            if found is not None:
                settled.append(found)
                break
        if settled:
            # What was told that this process ends is told otherwise.
            for each in conditions if len(conditions) > 1 else ():
                if each.id != settled[0].id:
                    self._look(each)
        return settled

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def random(self) -> float:
        return random.SystemRandom().random()

    def say(self, line: str) -> None:
        self._say(line)

    # ---- waits

    def _look(self, condition: Condition, *, hold_s: float = 0.0, yields: bool = False) -> Settled | None:
        """What came of a wait, None while it is pending."""
        about = condition.about
        match condition.kind:
            case "children":
                on = {"tasks": about["taskIds"], "threshold": about["need"]}
            case "group":
                on = {"group": about["group"]}
            case "timer":
                on = {"seconds": about["delayMs"] / 1000}
            case "round":
                on = {"task": about["task"], "roundKey": about["roundKey"]}
            case _:
                on = {"name": about["name"]}
        try:
            wait = self._link.ask("task.wait", {
                "operationId": condition.name, "on": {"kind": condition.kind} | on,
                "holdS": hold_s, "yields": yields,
            })  # fmt: skip
        except HarnessError as error:
            return Settled(condition.id, None, error)
        if wait["state"] == "pending":
            return None
        if wait.get("stalled"):
            keys = ", ".join(f"`{each}`" for each in wait["stalled"])
            return Settled(condition.id, None, HarnessError(
                "wait_stalled", f"what is waited for is blocked for good: {keys}", "cancel it, or retry what it depends on",
                taskKeys=wait["stalled"],
            ))  # fmt: skip
        match condition.kind:
            case "children":
                return Settled(condition.id, self._results(about["taskIds"]))
            case "group":
                return Settled(condition.id, {"status": wait["verdict"], "children": self._results(about["taskIds"])})
            case "signal":
                return Settled(condition.id, wait.get("payload"))
            case "round":
                return Settled(condition.id, self._round(about))
            case _:
                return Settled(condition.id, None)

    def _results(self, task_ids: Sequence[str]) -> list[dict[str, Any]]:
        """How these children ended, those that have, with their outputs as far as they are small."""
        found: list[dict[str, Any]] = []
        room_bytes = FETCHED_BYTES_MAX
        pending = list(task_ids)
        while pending:
            asked, pending = pending[:RESULTS_MAX], pending[RESULTS_MAX:]
            answer = self._link.ask("task.results", {"tasks": asked})
            pending = answer["left"] + pending
            for each in answer["results"]:
                body, used_bytes = self._body(each, room_bytes)
                room_bytes -= used_bytes
                found.append(body)
        return sorted(found, key=lambda each: (each["finishedAt"], each["taskId"]))

    def _body(self, result: dict[str, Any], room_bytes: int) -> tuple[dict[str, Any], int]:
        used_bytes = 0
        outputs: dict[str, Any] = {}
        for key, each in (result.get("outputs") or {}).items():
            text = each.get("text")
            if text is None and each["kind"] != "workspace" and each["sizeBytes"] <= room_bytes - used_bytes:
                text = self._output(result["taskId"], key, each["sizeBytes"])
                used_bytes += each["sizeBytes"]
            kept = ("kind", "sizeBytes", "digest", "workspaceId")
            outputs[key] = {name: each[name] for name in kept if name in each} | {"text": text}
        kept = ("taskId", "taskKey", "status", "text", "error", "finishedAt", "workspaceId")
        return {name: result[name] for name in kept if result.get(name)} | {"outputs": outputs}, used_bytes

    def _round(self, about: dict[str, Any]) -> dict[str, Any]:
        read = self._link.ask("round.read", {"task": about["task"], "roundKey": about["roundKey"]})
        told = {key: {"kind": "text"} | each for key, each in (read.get("outputs") or {}).items()}
        outputs = {key: each | _handle(each) for key, each in told.items()}
        body = {name: read[name] for name in ("taskId", "text", "error") if read.get(name)}
        return body | {"taskKey": about["task"], "status": read["state"], "outputs": outputs}

    def _output(self, task_id: str, key: str, size_bytes: int) -> str:
        content = bytearray()
        while len(content) < size_bytes:
            body = {"task": task_id, "outputKey": key, "offset": len(content)}
            content += base64.b64decode(self._link.ask("task.output", body)["bytesBase64"])
        return content.decode("utf-8", "replace")


def _handle(output: dict[str, Any]) -> dict[str, Any]:
    """The workspace that an output of a round names."""
    if output["kind"] != "workspace":
        return {}
    try:
        told = json.loads(output["text"])
    except ValueError:
        told = output["text"].strip()
    return {"workspaceId": told.get("workspaceId") if isinstance(told, dict) else str(told)}
