"""The way from a command in a task to the task's socket, and refusals on their way to the reader."""

from __future__ import annotations

import json
import os
import socket
import sys

WAIT_NOTICE_S = 10.0


class Refused(Exception):  # noqa: N818 - what a command ends with
    """A refusal: `body` as the control plane words it, and the exit code that it means."""

    def __init__(self, body: dict[str, object], exit_code: int = 2) -> None:
        super().__init__(str(body.get("message", "")))
        self.body = body
        self.exit_code = exit_code

    def show(self, *, as_json: bool) -> int:
        """Print it on stderr; the exit code."""
        if as_json:
            sys.stderr.write(json.dumps(self.body) + "\n")
            return self.exit_code
        sys.stderr.write(f"error: {self.body.get('message', '')}\n")
        for conflict in listed(self.body.get("conflicts")):
            because = f": {conflict['reason']}" if conflict.get("reason") else ""
            sys.stderr.write(f"  {conflict['path']} ({conflict['kind']}) is held by {conflict['taskKey']}{because}\n")
        if self.body.get("fix"):
            sys.stderr.write(f"fix: {self.body['fix']}\n")
        return self.exit_code


def refusal(code: str, message: str, fix: str, exit_code: int = 2) -> Refused:
    """A refusal of the command's own."""
    return Refused({"error": code, "message": message, "fix": fix}, exit_code)


def listed(value: object) -> list[dict[str, object]]:
    """The objects of a JSON list; nothing for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def ask(
    operation: str, body: dict[str, object], notice_s: float = WAIT_NOTICE_S
) -> dict[str, object]:
    """The answer to an operation of this task; raises `Refused`. Waits while the control plane is away, and
    says so after `notice_s`."""
    path = os.environ.get("FLAKES_TOOL_SOCKET")
    token_file = os.environ.get("FLAKES_TOOL_TOKEN_FILE")
    if not path or not token_file:
        raise refusal(
            "outside_task", "this command works inside a running task only",
            "run it in a task's command; outside, see `flakes tasks workpad show`",
        )  # fmt: skip
    try:
        with open(token_file, encoding="utf-8") as file:  # noqa: PTH123
            token = file.read().strip()
        status, answer = _exchange(path, token, operation, json.dumps(body).encode(), notice_s)
    except (OSError, ValueError) as error:
        raise refusal(
            "internal_error", f"the task's socket does not answer: {error}",
            "the task is over, or its sandbox has gone", exit_code=1,
        ) from error  # fmt: skip
    if status < 300:
        return answer
    raise Refused(answer, 1 if status >= 500 or status == 429 else 2)


def _exchange(
    path: str, token: str, operation: str, body: bytes, notice_s: float
) -> tuple[int, dict[str, object]]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        head = {"token": token, "operation": operation, "size": len(body)}
        try:
            connection.sendall(json.dumps(head).encode() + b"\n" + body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before it was read whole; the answer says why
        connection.settimeout(notice_s)
        received = bytearray()
        while b"\n" not in received:
            received += _receive(connection)
        line, _, rest = bytes(received).partition(b"\n")
        answer_head = json.loads(line)
        answer = bytearray(rest)
        while len(answer) < answer_head["size"]:
            answer += _receive(connection)
    return answer_head["status"], json.loads(bytes(answer))


def _receive(connection: socket.socket) -> bytes:
    try:
        data = connection.recv(65_536)
    except TimeoutError:
        sys.stderr.write("flakes: no answer yet, still waiting\n")
        connection.settimeout(None)
        data = connection.recv(65_536)
    if not data:
        raise ConnectionError("it closed without an answer")
    return data
