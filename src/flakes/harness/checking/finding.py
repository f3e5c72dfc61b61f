"""Findings of a check, and the stages that they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Stage = Literal["static", "types", "cases", "replay"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or (`warning`) likely to be. Lines and columns count from 1."""

    code: str
    message: str
    fix: str
    stage: Stage
    line: int | None = None
    column: int | None = None
    case: str | None = None
    severity: Literal["error", "warning"] = "error"

    def body(self) -> dict[str, Any]:
        """As JSON."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}


@dataclass(slots=True)
class Report:
    """What a stage came to. `skipped` says why it did not run."""

    stage: Stage
    findings: list[Finding] = field(default_factory=list)
    skipped: str | None = None

    @property
    def status(self) -> str:
        """passed, failed or skipped."""
        if self.skipped is not None:
            return "skipped"
        return "failed" if any(each.severity == "error" for each in self.findings) else "passed"
