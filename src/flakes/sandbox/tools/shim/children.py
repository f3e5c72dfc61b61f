"""`flakes tasks spawn` and what belongs to it: making children, looking at them, and reading what they left."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys

from flakes.sandbox.tools.shim.commands import Given
from flakes.sandbox.tools.shim.link import ask, listed, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

SPAWN_FIX = 'flakes tasks spawn --title "Draft" --adapter pi --body "..." [--group KEY], or --file tasks.json'


def spawn_(given: Given) -> int:
    """Make children; prints a line for each. Without --operation-id the same request is the same children."""
    body: dict[str, object] = {"tasks": _definitions(given)}
    if "--group" in given.values:
        body["group"] = given.values["--group"]
    if "--detached" in given.flags:
        body["detached"] = True
    body["operationId"] = given.values.get("--operation-id") or digest_of(body)
    return _show(given, ask("task.spawn", body))


def children_(given: Given) -> int:
    """Print them all, page by page."""
    body: dict[str, object] = {"group": given.values["--group"]} if "--group" in given.values else {}
    found: list[dict[str, object]] = []
    while True:
        page = ask("task.children", body)
        found += listed(page["children"])
        if not page.get("nextCursor"):
            return _show(given, {"children": found})
        body["cursor"] = page["nextCursor"]


def list_(given: Given) -> int:
    """Print the tasks of the run."""
    body: dict[str, object] = {}
    found: list[dict[str, object]] = []
    while True:
        page = ask("run.tasks", body)
        found += listed(page["tasks"])
        if not page.get("nextCursor"):
            return _show(given, {"tasks": found}, "tasks")
        body["cursor"] = page["nextCursor"]


def cancel_(given: Given) -> int:
    """Cancel children by id or key."""
    body: dict[str, object] = {"tasks": given.paths}
    if "--reason" in given.values:
        body["reason"] = given.values["--reason"]
    return _show(given, ask("task.cancel", body))


def outputs_(given: Given) -> int:
    """What an ended task left behind: its closing words, or with --json everything that is known of it."""
    result = ask("task.outputs", {"task": _task(given, "flakes tasks outputs TASK --json")})
    if given.as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    outputs = result.get("outputs") or {}
    assert isinstance(outputs, dict)
    for key, output in outputs.items():
        sys.stdout.write(f"{key}\t{output['kind']}\t{output['sizeBytes']} bytes\n")
    return 0


def output_(given: Given) -> int:
    """The bytes of one output, to stdout or a file."""
    fix = "flakes tasks output TASK --key KEY [--output FILE]"
    request: dict[str, object] = {"task": _task(given, fix), "outputKey": given.values.get("--key", "")}
    if not request["outputKey"]:
        raise refusal("usage", "name the output with --key", fix)
    target = given.values.get("--output")
    if target is None:
        _read(request, sys.stdout.buffer)
        sys.stdout.flush()
        return 0
    part = f"{target}.part"
    with open(part, "wb") as file:  # noqa: PTH123
        _read(request, file)
    os.replace(part, target)  # noqa: PTH105
    return 0


def signal_(given: Given) -> int:
    """Send a signal to the parent or a child."""
    fix = "flakes tasks signal TASK NAME [--payload JSON]"
    if len(given.paths) != 2:
        raise refusal("usage", "name the task and the signal", fix)
    body: dict[str, object] = {"task": given.paths[0], "name": given.paths[1]}
    if "--payload" in given.values:
        body["payload"] = json_of(given.values["--payload"], "--payload", fix)
    body["operationId"] = given.values.get("--operation-id") or digest_of(body)
    sent = ask("task.signal", body)
    sys.stdout.write((json.dumps(sent) if given.as_json else str(sent["state"])) + "\n")
    return 0


def digest_of(body: dict[str, object]) -> str:
    """A name for a request by what it says, so that a script that runs again asks for the same thing."""
    return "cli-" + hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def json_of(text: str, option: str, fix: str) -> object:
    """The value of an option that is JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise refusal("usage", f"{option} is not JSON: {error}", fix) from error


def _definitions(given: Given) -> list[object]:
    path = given.values.get("--file")
    if path is None:
        return [_definition(given)]
    if any(name in given.values for name in ("--title", "--key", "--adapter", "--body", "--shell")):
        raise refusal("usage", "with --file, what the children are stands in the file", SPAWN_FIX)
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        found = json_of(file.read(), path, SPAWN_FIX)
    if isinstance(found, dict):
        found = found.get("tasks")
    if not isinstance(found, list):
        raise refusal("usage", f"{path} is no list of tasks", SPAWN_FIX)
    return found


def _definition(given: Given) -> dict[str, object]:
    shell = given.values.get("--shell")
    definition: dict[str, object] = {
        "title": given.values.get("--title") or given.values.get("--key") or shell or "",
        "adapter": given.values.get("--adapter") or ("command" if shell is not None else ""),
        "bodyMarkdown": given.values.get("--body", ""),
    }
    if not definition["title"] or not definition["adapter"]:
        raise refusal("usage", "say what the child is about and which adapter does it", SPAWN_FIX)
    if shell is not None:
        definition["input"] = {"shell": shell}
    if "--key" in given.values:
        definition["taskKey"] = given.values["--key"]
    if "--output" in given.values:
        keys = given.values["--output"].split(",")
        definition["declaredOutputs"] = {key: {"kind": "text", "required": False} for key in keys}
    if "--live" in given.flags:
        definition["liveRounds"] = True
    if "--idle" in given.values:
        definition["liveIdle"] = {"afterS": given.seconds("--idle")}
    if "--depends-on" in given.values:
        definition["dependsOn"] = given.values["--depends-on"].split(",")
    return definition


def _task(given: Given, fix: str) -> str:
    if not given.paths:
        raise refusal("usage", "name a task by its key or id", fix)
    return given.paths[0]


def _read(request: dict[str, object], file: BinaryIO) -> None:
    offset = 0
    while True:
        found = ask("task.output", {**request, "offset": offset})
        piece = base64.b64decode(str(found["bytesBase64"]))
        file.write(piece)
        offset += len(piece)
        if offset >= int(str(found["sizeBytes"])) or not piece:
            return


def _show(given: Given, answer: dict[str, object], plural: str = "children") -> int:
    if given.as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
        return 0
    for each in listed(answer[plural]):
        sys.stdout.write(f"{each['taskKey']}\t{each['status']}\t{each['taskId']}\n")
    return 0
