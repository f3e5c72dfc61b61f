"""`flakes groups ...`: groups of children of this task."""

from __future__ import annotations

import json
import sys

from flakes.sandbox.tools.shim.commands import Given
from flakes.sandbox.tools.shim.link import ask, refusal

OPEN_FIX = "flakes groups open KEY [--join all_success|all_settled|first|quorum --quorum N]"


def open_(given: Given) -> int:
    """Open a group, or find it; prints its key and status."""
    body: dict[str, object] = {"groupKey": _key(given, OPEN_FIX)}
    for option, field in (("--name", "name"), ("--join", "join")):
        if option in given.values:
            body[field] = given.values[option]
    for option, field in (("--quorum", "quorum"), ("--max-children", "maxChildren")):
        if option in given.values:
            body[field] = given.number(option)
    return _show(given, ask("group.open", body))


def close_(given: Given) -> int:
    """Close it."""
    return _show(given, ask("group.close", {"group": _key(given, "flakes groups close KEY")}))


def status_(given: Given) -> int:
    """How it stands."""
    return _show(given, ask("group.status", {"group": _key(given, "flakes groups status KEY")}))


def cancel_(given: Given) -> int:
    """Cancel what lives of it."""
    body: dict[str, object] = {"group": _key(given, "flakes groups cancel KEY")}
    if "--reason" in given.values:
        body["reason"] = given.values["--reason"]
    return _show(given, ask("group.cancel", body))


def _key(given: Given, fix: str) -> str:
    if not given.paths:
        raise refusal("usage", "name a group by its key", fix)
    return given.paths[0]


def _show(given: Given, group: dict[str, object]) -> int:
    counts = group["counts"]
    assert isinstance(counts, dict)
    line = f"{group['groupKey']}\t{group['status']}\t{counts['live']} of {counts['total']} live"
    sys.stdout.write((json.dumps(group) if given.as_json else line) + "\n")
    return 0
