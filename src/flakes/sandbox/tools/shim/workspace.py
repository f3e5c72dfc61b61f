"""`flakes workspace ...`: storing the task's files while it runs, and what the run has selected."""

from __future__ import annotations

import json
import sys

from flakes.sandbox.tools.shim.commands import Given
from flakes.sandbox.tools.shim.link import ask, listed, refusal


def commit_(given: Given) -> int:
    """Store the files as they are; prints the workspace."""
    body: dict[str, object] = {"paths": given.paths, "message": given.values.get("--message", "")}
    handle = ask("workspace.commit", body)
    return _show(given, handle, str(handle["workspaceId"]))


def selected_(given: Given) -> int:
    """Print the workspace that is selected; exit code 2 when there is none."""
    answer = ask("workspace.selected", _ref(given))
    ref = answer.get("ref")
    _show(given, answer, str(ref["workspaceId"]) if isinstance(ref, dict) else "nothing is selected")
    return 0 if ref else 2


def promote_(given: Given) -> int:
    """Select a workspace; prints it."""
    if not given.paths:
        raise refusal("usage", "name a workspace", "flakes workspace promote WORKSPACE [--expected WORKSPACE]")
    body: dict[str, object] = {"workspaceId": given.paths[0], **_ref(given)}
    if "--mode" in given.values:
        body["mode"] = given.values["--mode"]
    if "--expected" in given.values:
        body["expectedWorkspaceId"] = given.values["--expected"]
    else:
        ref = ask("workspace.selected", _ref(given)).get("ref")
        if isinstance(ref, dict):
            body["expectedWorkspaceId"] = ref["workspaceId"]
    answer = ask("workspace.promote", body)
    return _show(given, answer, given.paths[0])


def diff_(given: Given) -> int:
    """Print what the task has changed: a patch, or the paths alone."""
    body: dict[str, object] = {"paths": given.paths, "patch": "--name-only" not in given.flags}
    for option, name in (("--base", "base"), ("--workspace", "workspaceId")):
        if option in given.values:
            body[name] = given.values[option]
    answer = ask("workspace.diff", body)
    if given.as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
    elif "--name-only" in given.flags:
        for change in listed(answer["changes"]):
            sys.stdout.write(f"{change['kind']}\t{change['path']}\n")
    else:
        sys.stdout.write(str(answer.get("patch", "")))
        if answer.get("patchCut"):
            sys.stderr.write("flakes: the patch is cut: name paths to see the rest\n")
    return 0


def _ref(given: Given) -> dict[str, object]:
    return {"ref": given.values["--ref"]} if "--ref" in given.values else {}


def _show(given: Given, answer: dict[str, object], line: str) -> int:
    sys.stdout.write((json.dumps(answer) if given.as_json else line) + "\n")
    return 0
