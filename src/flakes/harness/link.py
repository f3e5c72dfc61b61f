"""The way from a harness to the tools of its task: one request, one connection, one answer."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

from flakes.harness.errors import EngineGone, HarnessError

TRIES: Final = 5
GONE: Final = frozenset({"stale_assignment", "journal_conflict", "unauthorized"})
"""Refusals which mean that this process is not the task's any more."""


class Link:
    """Asks for operations. `on_wait` and `on_answer` are called around each of them."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._path = environment.get("FLAKES_TOOL_SOCKET", "")
        self._token_file = environment.get("FLAKES_TOOL_TOKEN_FILE", "")

    def ask(self, operation: str, body: dict[str, Any]) -> Any:
        """The answer, however long it takes. Raises `HarnessError` with the code of a refusal, and `EngineGone`
        when there is nobody to ask any more."""
        content = json.dumps(body).encode()
        answer: dict[str, Any] = {}
        for tried in range(1, TRIES + 1):
            try:
                status, answer = self._exchange(operation, content)
            except (OSError, ValueError) as error:
                raise EngineGone(f"the task's socket does not answer: {error}") from error
            if status < 300:
                return answer
            code = str(answer.get("error"))
            if code in GONE:
                raise EngineGone(f"{answer.get('message')} ({code})")
            if status < 500:
                details = {name: each for name, each in answer.items() if name not in ("error", "message", "fix")}
                raise HarnessError(code, str(answer.get("message")), str(answer.get("fix") or ""), **details)
            time.sleep(0.1 * 2**tried)
        raise EngineGone(f"the control plane cannot do {operation}: {answer.get('message')}")

    def _exchange(self, operation: str, content: bytes) -> tuple[int, dict[str, Any]]:
        with open(self._token_file, encoding="utf-8") as file:  # noqa: PTH123
            token = file.read().strip()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._path)
            head = {"token": token, "operation": operation, "size": len(content)}
            try:
                connection.sendall(json.dumps(head).encode() + b"\n" + content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before it was read whole; the answer says why
            with connection.makefile("rb") as reader:
                answer_head = json.loads(reader.readline())
                answer = reader.read(answer_head["size"])
        if len(answer) < answer_head["size"]:
            raise ConnectionError("it closed within its answer")
        return answer_head["status"], json.loads(answer)
