"""`flakes tasks files ...`: reserving paths of the run for this task, and looking who has."""

from __future__ import annotations

import json
import sys

from flakes.sandbox.tools.shim.commands import Given
from flakes.sandbox.tools.shim.link import ask, listed


def reserve_(given: Given) -> int:
    """Reserve; prints what is held now."""
    answer = ask("files.reserve", {"selectors": _selectors(given), "reason": given.values.get("--reason")})
    return _show(given, answer, "reservations")


def release_(given: Given) -> int:
    """Release; prints what was held."""
    answer = ask("files.release", {"all": True} if given.all else {"selectors": _selectors(given)})
    return _show(given, answer, "released")


def list_(given: Given) -> int:
    """Print everything that this task holds."""
    return _show(given, ask("files.list", {}), "reservations")


def check_(given: Given) -> int:
    """Print what is in the way, if anything is; exit code 2 then."""
    answer = ask("files.check", {"selectors": _selectors(given)})
    if given.as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
    elif answer["free"]:
        sys.stdout.write("free\n")
    else:
        for conflict in listed(answer["conflicts"]):
            because = f": {conflict['reason']}" if conflict.get("reason") else ""
            sys.stdout.write(f"{conflict['kind']}\t{conflict['path']}\theld by {conflict['taskKey']}{because}\n")
    return 0 if answer["free"] else 2


def _selectors(given: Given) -> list[dict[str, str]]:
    kind = "prefix" if given.prefix else "exact"
    return [{"path": path, "kind": kind} for path in given.paths]


def _show(given: Given, answer: dict[str, object], plural: str) -> int:
    if given.as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
        return 0
    for item in listed(answer[plural]):
        reason = f"\t{item['reason']}" if item.get("reason") else ""
        sys.stdout.write(f"{item['kind']}\t{item['path']}{reason}\n")
    return 0
