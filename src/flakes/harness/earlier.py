"""What earlier tries of a harness have left behind, for the next one.

A harness that failed and is tried again begins a new part of its journal: its code runs anew, but children that
had succeeded are not begun a second time, and signals that had come are not lost. Children that had failed are
begun again under another key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from flakes.harness.engine import Entry

REUSED_JOINS: Final = (None, "all_success", "all_settled")
"""Rules of groups under which a child that succeeded elsewhere counts the same."""


@dataclass(slots=True)
class Earlier:
    """See the module. `number` counts tries from 1."""

    number: int = 1
    keys: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    spawns: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By what they were asked to do: `taskId` and `taskKey` of the last child that did not fail."""
    signals: dict[str, list[Any]] = field(default_factory=dict)

    def key(self, key: str, asked: str, join: str | None) -> str:
        """The key that a child has in this try."""
        found = self.reused(asked, join)
        if found is not None:
            return found["taskKey"]
        return self._fresh(key, self.keys)

    def group(self, key: str) -> str:
        """The key that a group has in this try."""
        return self._fresh(key, self.groups)

    def reused(self, asked: str, join: str | None) -> dict[str, Any] | None:
        """The child of an earlier try that need not be begun again."""
        return self.spawns.get(asked) if join in REUSED_JOINS else None

    def name(self, effect: int) -> str:
        """The operation id of an effect."""
        return f"harness-{self.number}-{effect}"

    def _fresh(self, key: str, used: set[str]) -> str:
        return f"{key[:58].rstrip('-')}-r{self.number}" if key in used else key

    def add(self, entries: Sequence[Entry]) -> None:
        """Learn from one more try."""
        self.number += 1
        starts = {each["id"]: each for each in entries if each["k"] == "start"}
        asked_of: dict[str, str] = {}
        signals: dict[str, list[Any]] = {}
        for each in starts.values():
            extra = each.get("extra") or {}
            if each["kind"] == "spawn":
                self.keys |= {extra["own"], extra["key"]}
            elif "group" in extra:
                self.groups.add(extra["group"])
        for each in entries:
            if each["k"] != "settle" or "error" in each:
                continue
            for effect, value in zip(each["ids"], each["values"], strict=True):
                start = starts[effect]
                if start["kind"] == "spawn":
                    asked_of[value["taskId"]] = start["extra"]["asked"]
                    self.spawns[start["extra"]["asked"]] = {name: value[name] for name in ("taskId", "taskKey")}
                elif start["kind"] == "signal":
                    signals.setdefault(start["extra"]["name"], []).append(value)
                elif start["kind"] in ("children", "group"):
                    self._ended(value if start["kind"] == "children" else value["children"], asked_of)
        for name, values in signals.items():
            if len(values) > len(self.signals.get(name, ())):
                self.signals[name] = values

    def _ended(self, bodies: list[dict[str, Any]], asked_of: dict[str, str]) -> None:
        for body in bodies:
            if body["status"] != "SUCCEEDED":
                self.spawns.pop(asked_of.get(body["taskId"], ""), None)
