"""May the agent? What a task's permission mode answers by itself, and the question to its owner otherwise.

`auto` allows everything, `readOnly` nothing that changes something, `ask` asks for what changes something.
The task's own outputs may be written in every mode: that is what it is there for. A question is a durable
permission request under the agent's own id for it, so asking again after a broken connection is the same
question. One that cannot be asked any more (the attempt has ended) is denied.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flakes.agents.base import Decision, Question
from flakes.core import limits
from flakes.sandbox.tools.server import Asks
from flakes.sandbox.transcript import TranscriptSink
from flakes.wire.codec import BodyError, decode, encode
from flakes.wire.permissions import Permission, PermissionAsk, PermissionPoll

READ_ONLY: Final = "the task is read-only: it may read, and write its own outputs, and nothing else"


class Permissions:
    """The questions of one attempt."""

    def __init__(
        self,
        assignment_id: str,
        mode: str,
        outputs_dir: Path,
        forwarder: Asks,
        transcript: TranscriptSink,
    ) -> None:
        self._assignment_id = assignment_id
        self._mode = mode
        self._outputs_dir = outputs_dir
        self._forwarder = forwarder
        self._transcript = transcript

    async def permit(self, question: Question, cwd: Path) -> Decision:
        """The answer, by the mode or by a person."""
        about = {"id": question.id, "title": question.title, "effect": question.effect}
        self._transcript.add("question", about)
        if self._mode == "auto" or question.effect == "read":
            decision, by = Decision(True), "mode"
        elif question.paths and all(self._is_output(cwd / path) for path in question.paths):
            decision, by = Decision(True), "outputs"
        elif self._mode == "readOnly":
            decision, by = Decision(False, READ_ONLY), "mode"
        else:
            decision = await self.ask(question.id, question.title, question.effect, question.details)
            by = "owner"
        told = {"id": question.id, "allowed": decision.allowed, "by": by, "reason": decision.reason}
        self._transcript.add("decision", told)
        return decision

    async def ask(
        self, operation_id: str, prompt: str, action: str, details: Mapping[str, Any]
    ) -> Decision:
        """Ask the owner of the run, and wait for as long as it takes."""
        decision, _ = await self.request(operation_id, prompt, action, details)
        return decision

    async def request(
        self, operation_id: str, prompt: str, action: str, details: Mapping[str, Any]
    ) -> tuple[Decision, str]:
        """Like `ask`; with the id of the request, empty when it could not be asked."""
        text = encode(details)
        fits = len(text) <= limits.PERMISSION_DETAILS_BYTES_MAX
        body = PermissionAsk(
            operation_id=operation_id[:200], prompt=prompt[: limits.PERMISSION_PROMPT_LENGTH_MAX],
            action=action, details=dict(details) if fits else {"tooLarge": True},
        )  # fmt: skip
        return await answered(self._forwarder, self._assignment_id, body)

    def _is_output(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._outputs_dir.resolve())


async def answered(
    forwarder: Asks, assignment_id: str, body: PermissionAsk
) -> tuple[Decision, str]:
    """Ask the owner of the run, and wait for as long as it takes: the answer, and the id of the request."""

    async def operate(operation: str, content: bytes) -> Permission | str:
        status, answer = await forwarder.ask(assignment_id, operation, content)
        try:
            if status == 200:
                return decode(answer, Permission)
        except BodyError as error:
            return str(error)
        return answer[:300].decode("utf-8", "replace")

    found = await operate("permission.ask", encode(body))
    while isinstance(found, Permission) and found.decision is None and found.status == "pending":
        poll = PermissionPoll(
            permission_request_id=found.permission_request_id, wait_s=limits.PERMISSION_WAIT_S_MAX
        )
        found = await operate("permission.status", encode(poll))
    if isinstance(found, Permission):
        return Decision(found.decision == "approved", found.reason or ""), found.permission_request_id
    return Decision(False, f"the question could not be asked: {found}"), ""
