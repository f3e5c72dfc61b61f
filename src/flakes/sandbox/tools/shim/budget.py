"""`flakes budget show`: what bounds the task, and how much of it is left."""

from __future__ import annotations

import json
import sys

from flakes.sandbox.tools.shim.commands import Given
from flakes.sandbox.tools.shim.link import ask, listed


def show_(given: Given) -> int:
    """A line for each bound: what, whose, spent, limit, left; nothing when nothing bounds the task."""
    found = ask("budget.read", {})
    if given.as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    for each in listed(found["bounds"]):
        whose = f"{'run' if each['scope'] == 'run' else 'task'} {each['key']}"
        sys.stdout.write(f"{each['bound']}\t{whose}\t{each['spent']} of {each['limit']}\t{each['left']} left\n")
    return 0
