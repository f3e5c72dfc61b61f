"""`flakes inbox`: the messages of people to this task, printed and then acknowledged.

A message is acknowledged after it has been written out, so one that nobody saw is printed again.
"""

from __future__ import annotations

import json
import sys
import time

from flakes.sandbox.tools.shim.commands import Given
from flakes.sandbox.tools.shim.link import ask, listed, refusal

HOLD_S = 25.0
NOTICE_S = 40.0
EXIT_NOTHING = 4


def inbox_(given: Given) -> int:
    """Print what is unread; with ``--wait`` wait for a first message, and exit with 4 when none came."""
    wait_s = _wait_s(given)
    until_s = time.monotonic() + wait_s
    while True:
        left_s = max(0.0, until_s - time.monotonic())
        found = ask("inbox.read", {"waitS": min(HOLD_S, left_s)}, NOTICE_S)
        messages = listed(found["messages"])
        if messages or time.monotonic() >= until_s:
            break
    if given.as_json:
        sys.stdout.write(json.dumps({"messages": messages}) + "\n")
    for message in () if given.as_json else messages:
        sys.stdout.write(f"[{message['mode']}] {message['text']}\n")
    sys.stdout.flush()
    if messages:
        ask("inbox.consume", {"messageIds": [message["id"] for message in messages]})
    return EXIT_NOTHING if wait_s and not messages else 0


def _wait_s(given: Given) -> float:
    text = given.values.get("--wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 30 * 86_400:
        raise refusal("usage", f"--wait is not a number of seconds: {text[:40]!r}", "flakes inbox --wait 60")
    return seconds
