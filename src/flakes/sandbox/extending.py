"""Children that a budget does not allow: the owner is asked before the task is refused.

Like a budget of tokens that is used up (`conversation`): the request to make children stands still, its slot is
kept, and a yes makes room for as many again. What was denied once stays denied for the attempt.
"""

from __future__ import annotations

from typing import Final

import msgspec

from flakes.sandbox.asking import answered
from flakes.sandbox.tools.server import Asks
from flakes.wire.budgets import BudgetExtend, BudgetQuestion
from flakes.wire.codec import BodyError, decode, encode
from flakes.wire.permissions import PermissionAsk

SPAWN: Final = "task.spawn"
EXHAUSTED: Final = "budget_exhausted"


class Extending:
    """Forwards operations of tasks, and asks owners about budgets of children."""

    def __init__(self, forwarder: Asks) -> None:
        self._forwarder = forwarder

    async def ask(self, assignment_id: str, operation: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer; it may be long in coming."""
        asked: set[tuple[str, int]] = set()
        while True:
            status, answer = await self._forwarder.ask(assignment_id, operation, body)
            question = _question(answer) if operation == SPAWN and status == 409 else None
            if question is None or (question.scope_id, question.limit) in asked:
                return status, answer
            asked.add((question.scope_id, question.limit))
            refused = await self._request(assignment_id, question, answer)
            if refused is not None:
                return status, refused

    async def _request(
        self, assignment_id: str, question: BudgetQuestion, answer: bytes
    ) -> bytes | None:
        """None when there is room now, else the refusal with what the owner said."""
        refusal = msgspec.json.decode(answer, type=dict)
        sentence = str(refusal["message"])
        name = f"budget {question.scope_id} {question.budget} {question.limit}"
        decision, permission_id = await answered(self._forwarder, assignment_id, PermissionAsk(
            operation_id=name[:200], prompt=f"Extend the budget? {sentence[0].upper()}{sentence[1:]}.",
            action="extend", details=msgspec.to_builtins(question),
        ))  # fmt: skip
        if not decision.allowed:
            reason = f": {decision.reason}" if decision.reason else ""
            return encode(refusal | {"message": f"{sentence}; it was not extended{reason}"})
        body = encode(BudgetExtend(permission_request_id=permission_id))
        await self._forwarder.ask(assignment_id, "budget.extend", body)
        return None


def _question(answer: bytes) -> BudgetQuestion | None:
    """What there is to ask, when that is why the children were refused."""
    try:
        refusal = msgspec.json.decode(answer, type=dict)
        if refusal.get("error") != EXHAUSTED:
            return None
        about = {name: refusal[name] for name in BudgetQuestion.__struct_encode_fields__ if name in refusal}
        return decode(encode(about), BudgetQuestion)
    except (msgspec.DecodeError, BodyError):
        return None
