"""`flakes ask`: a question to the owner of the run, and the answer as an exit code.

0 is approved; 3 is denied, also by default when nobody answered in time, and cancelled. With ``--poll`` a
request that is still pending is 4.
"""

from __future__ import annotations

import json
import os
import sys

from flakes.sandbox.tools.shim.commands import Given
from flakes.sandbox.tools.shim.link import ask, refusal

HOLD_S = 25.0
"""How long the control plane holds one look at a request."""
NOTICE_S = 40.0
EXIT_DENIED = 3
EXIT_PENDING = 4
FIX = 'flakes ask "May I delete the branch?" [--expires SECONDS --default approved|denied]'


def ask_(given: Given) -> int:
    """Ask and wait; or ask only (``--no-wait``), or look how a request stands (``--poll ID``)."""
    known = given.values.get("--poll")
    if known is not None:
        if given.paths or set(given.values) != {"--poll"} or given.no_wait:
            raise refusal("usage", "--poll takes the id of a request and nothing else", FIX)
        return _show(given, ask("permission.status", {"permissionRequestId": known}), EXIT_PENDING)
    request = ask("permission.ask", _body(given))
    if given.no_wait:
        _print(given, request, str(request["permissionRequestId"]))
        return 0
    if request["status"] == "pending":
        approve = f"flakes permissions approve {request['permissionRequestId']}"
        sys.stderr.write(f"flakes: waiting for an answer, which `{approve}` gives\n")
    poll = {"permissionRequestId": request["permissionRequestId"], "waitS": HOLD_S}
    while request["status"] == "pending":
        request = ask("permission.status", poll, NOTICE_S)
    return _show(given, request, EXIT_DENIED)


def _body(given: Given) -> dict[str, object]:
    if not given.paths or not given.paths[0].strip():
        raise refusal("usage", "say what to ask", FIX)
    # The name of this question: sent again under it, because an answer was lost, it is the same one.
    own = given.values.get("--operation-id") or os.urandom(16).hex()
    body: dict[str, object] = {"operationId": own, "prompt": given.paths[0]}
    if "--action" in given.values:
        body["action"] = given.values["--action"]
    if "--details" in given.values:
        body["details"] = _details(given.values["--details"])
    if "--expires" in given.values:
        body["expiresInS"] = _seconds(given.values["--expires"])
    if "--default" in given.values:
        if "--expires" not in given.values:
            raise refusal("usage", "--default needs --expires: it is what holds after that time", FIX)
        body["default"] = given.values["--default"]
    return body


def _details(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise refusal("usage", f"--details is not JSON: {error}", FIX) from error
    if not isinstance(found, dict):
        raise refusal("usage", "--details must be a JSON object", FIX)
    return found


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise refusal("usage", f"--expires is not a number of seconds: {text[:40]!r}", FIX) from error


def _show(given: Given, request: dict[str, object], otherwise: int) -> int:
    """Print how it stands. The exit code: `otherwise` while pending."""
    reason = request.get("reason")
    if request["status"] == "expired":
        reason = f"nobody answered, {request['decision']} by default"
    _print(given, request, f"{request['status']}: {reason}" if reason else str(request["status"]))
    if request["status"] == "pending":
        return otherwise
    return 0 if request.get("decision") == "approved" else EXIT_DENIED


def _print(given: Given, request: dict[str, object], line: str) -> None:
    sys.stdout.write((json.dumps(request) if given.as_json else line) + "\n")
    sys.stdout.flush()
