"""`flakes rounds ...`: prompts to live children, and what a live task does with its own."""

from __future__ import annotations

import json
import sys
import time

from flakes.sandbox.tools.shim.children import digest_of, json_of
from flakes.sandbox.tools.shim.commands import Given
from flakes.sandbox.tools.shim.link import ask, listed, refusal

HOLD_S = 25.0
HOLD_DEFAULT_S = 10.0
NOTICE_S = 40.0
EXIT_NO_MORE = 4
EXIT_YIELD = 75


def send_(given: Given) -> int:
    """Send a prompt; prints the key of the round. The same prompt again is the same round, unless it has
    another --key or --operation-id."""
    fix = 'flakes rounds send TASK --prompt "..." [--key KEY]'
    body: dict[str, object] = {"task": _one(given, fix), "prompt": given.values.get("--prompt", "")}
    if not body["prompt"]:
        raise refusal("usage", "say what to do with --prompt", fix)
    if "--key" in given.values:
        body["roundKey"] = given.values["--key"]
    if "--payload" in given.values:
        body["payload"] = json_of(given.values["--payload"], "--payload", fix)
    body["operationId"] = given.values.get("--operation-id") or digest_of(body)
    sent = ask("round.send", body)
    return _print(given, sent, f"{sent['roundKey']}\t{sent['state']}")


def finish_(given: Given) -> int:
    """No more prompts."""
    found = ask("round.finish", {"task": _one(given, "flakes rounds finish TASK")})
    return _print(given, found, str(found.get("liveState", "ended")))


def next_(given: Given) -> int:
    """Print the prompt of the next round: exit 0; 4 when there will be none, 75 when there is none yet."""
    until_s = time.monotonic() + (given.seconds("--hold") if "--hold" in given.values else HOLD_DEFAULT_S)
    forever = "--no-yield" in given.flags
    while True:
        left_s = until_s - time.monotonic()
        last = left_s <= HOLD_S and not forever
        hold_s = HOLD_S if forever else max(0.0, min(HOLD_S, left_s))
        found = ask("round.next", {"holdS": hold_s, "yields": last}, NOTICE_S)
        prompted = found.get("round")
        if prompted or found.get("finishing") or last:
            break
    if isinstance(prompted, dict):
        return _print(given, found, f"{prompted['roundKey']}\t{prompted['prompt']}")
    if given.as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    if found.get("finishing"):
        return EXIT_NO_MORE
    sys.stderr.write("flakes: no prompt yet; end with exit code 75, and the task goes on when one has come\n")
    return EXIT_YIELD


def complete_(given: Given) -> int:
    """The round is over. --output key=FILE,key=FILE; what ends in .json is JSON."""
    fix = "flakes rounds complete KEY [--output KEY=FILE,...] [--text TEXT] [--failed]"
    body: dict[str, object] = {"roundKey": _one(given, fix), "text": given.values.get("--text", "")}
    if "--failed" in given.flags:
        body["state"] = "FAILED"
    outputs: dict[str, object] = {}
    for pair in [each for each in given.values.get("--output", "").split(",") if each]:
        key, _, path = pair.partition("=")
        if not path:
            raise refusal("usage", f"{pair} is not KEY=FILE", fix)
        with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123
            outputs[key] = {"kind": "json" if path.endswith(".json") else "text", "text": file.read()}
    body["outputs"] = outputs
    done = ask("round.complete", body)
    return _print(given, done, f"{done['roundKey']}\t{done['state']}")


def read_(given: Given) -> int:
    """A round of a child, or of this task: its closing words, or one output with --output KEY."""
    fix = "flakes rounds read KEY [--task TASK] [--output KEY]"
    body: dict[str, object] = {"roundKey": _one(given, fix)}
    if "--task" in given.values:
        body["task"] = given.values["--task"]
    found = ask("round.read", body)
    key = given.values.get("--output")
    if key is None:
        return _print(given, found, f"{found['roundKey']}\t{found['state']}\t{found.get('text', '')}")
    outputs = found.get("outputs")
    output = outputs.get(key) if isinstance(outputs, dict) else None
    if not isinstance(output, dict):
        raise refusal("not_found", f"the round has no output {key!r}", fix)
    sys.stdout.write(str(output["text"]))
    return 0


def list_(given: Given) -> int:
    """The rounds of a child, or of this task."""
    body: dict[str, object] = {"task": given.values["--task"]} if "--task" in given.values else {}
    found: list[dict[str, object]] = []
    while True:
        page = ask("round.list", body)
        found += listed(page["rounds"])
        if not page.get("nextCursor"):
            break
        body["cursor"] = page["nextCursor"]
    if given.as_json:
        told = {"rounds": found, "liveState": page.get("liveState")}
        sys.stdout.write(json.dumps(told) + "\n")
        return 0
    for each in found:
        sys.stdout.write(f"{each['roundKey']}\t{each['state']}\n")
    return 0


def _one(given: Given, fix: str) -> str:
    if not given.paths:
        raise refusal("usage", "name one thing", fix)
    return given.paths[0]


def _print(given: Given, answer: dict[str, object], line: str) -> int:
    sys.stdout.write((json.dumps(answer) if given.as_json else line) + "\n")
    sys.stdout.flush()
    return 0
