"""`flakes wait`: until a group or children have ended, a time has passed, or a signal has come.

It keeps the slot for a few seconds. When it is not over by then it exits with 75, and the task should end with
that: it is run again, from its beginning, once the wait is over, and the same `flakes wait` answers at once.
0 is settled and well, 3 settled badly, 4 timed out; 2 that it can never be satisfied.
"""

from __future__ import annotations

import json
import sys
import time

from flakes.sandbox.tools.shim.children import digest_of
from flakes.sandbox.tools.shim.commands import Given
from flakes.sandbox.tools.shim.link import ask, refusal

HOLD_S = 25.0
"""How long the control plane holds one request."""
HOLD_DEFAULT_S = 10.0
NOTICE_S = 40.0
EXIT_UNSUCCESSFUL = 3
EXIT_TIMED_OUT = 4
EXIT_YIELD = 75
FIX = "flakes wait --group KEY, --children KEY,KEY (or --children all), --seconds N, --signal NAME, or --round TASK/KEY"


def wait_(given: Given) -> int:
    """Wait, and print how it ended; of a signal what it carried."""
    on = _on(given)
    body: dict[str, object] = {"on": on}
    if "--timeout" in given.values:
        body["timeoutS"] = given.seconds("--timeout")
    body["operationId"] = given.values.get("--operation-id") or digest_of({**body})
    forever = "--no-yield" in given.flags
    until_s = time.monotonic() + (given.seconds("--hold") if "--hold" in given.values else HOLD_DEFAULT_S)
    while True:
        left_s = until_s - time.monotonic()
        last = left_s <= HOLD_S and not forever
        hold_s = HOLD_S if forever else max(0.0, min(HOLD_S, left_s))
        found = ask("task.wait", {**body, "holdS": hold_s, "yields": last}, NOTICE_S)
        if found["state"] != "pending" or last:
            return _show(given, found)


def _on(given: Given) -> dict[str, object]:
    kinds = [name for name in ("--group", "--children", "--seconds", "--signal", "--round") if name in given.values]
    if len(kinds) != 1:
        raise refusal("usage", "name one thing to wait for", FIX)
    value = given.values[kinds[0]]
    rules = {"--join": "join", "--quorum": "quorum", "--threshold": "threshold"}
    if kinds[0] != "--children" and any(name in given.values for name in rules):
        raise refusal("usage", "--join, --quorum and --threshold go with --children", FIX)
    if kinds[0] == "--group":
        return {"kind": "group", "group": value}
    if kinds[0] == "--seconds":
        return {"kind": "timer", "seconds": given.seconds("--seconds")}
    if kinds[0] == "--round":
        task, _, key = value.rpartition("/")
        if not task or not key:
            raise refusal("usage", "name the child and the round: TASK/KEY", FIX)
        return {"kind": "round", "task": task, "roundKey": key}
    if kinds[0] == "--signal":
        return {"kind": "signal", "name": value}
    on: dict[str, object] = {"kind": "children"}
    if value != "all":
        on["tasks"] = [key for key in value.split(",") if key]
    if "--join" in given.values:
        on["join"] = given.values["--join"]
    for name in ("--quorum", "--threshold"):
        if name in given.values:
            on[rules[name]] = given.number(name)
    return on


def _show(given: Given, found: dict[str, object]) -> int:
    state, verdict, stalled = found["state"], found.get("verdict"), found.get("stalled")
    if isinstance(stalled, list) and stalled:
        keys = ", ".join(map(str, stalled))
        raise refusal("wait_stalled", f"what is waited for is blocked for good: {keys}", "cancel it, or retry what it depends on")
    if given.as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    elif state == "settled" and found["kind"] == "signal":
        sys.stdout.write(json.dumps(found.get("payload")) + "\n")
    else:
        sys.stdout.write(f"{verdict or state}\n")
    sys.stdout.flush()
    if state == "pending":
        sys.stderr.write("flakes: not yet; end with exit code 75, and the task goes on when it has come\n")
        return EXIT_YIELD
    if state != "settled":
        return EXIT_TIMED_OUT
    return 0 if verdict in (None, "SUCCEEDED") else EXIT_UNSUCCESSFUL
