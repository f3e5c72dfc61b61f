"""How an attempt ended, as the control plane is told: errors into outcomes, results into frames."""

from __future__ import annotations

from typing import Final

from flakes.agents.base import AgentError
from flakes.core.limits import KIB
from flakes.core.task import Outcome
from flakes.wire.codec import encode
from flakes.wire.sandbox_stream import Result
from flakes.wire.tasks import Evidence, TaskError

RESULT_BYTES_MAX: Final = 900 * KIB


def fitted(result: Result) -> bytes:
    """The result as JSON that fits into a frame; what is only there to be looked at goes first."""
    body = encode(result)
    if len(body) <= RESULT_BYTES_MAX:
        return body
    evidence = [
        Evidence(
            command=item.command[:KIB],
            exit_code=item.exit_code,
            passed=item.passed,
            tail="[too large]",
            duration_ms=item.duration_ms,
        )
        for item in result.evidence
    ]
    return encode(
        Result(
            assignment_id=result.assignment_id,
            outcome=result.outcome,
            text=result.text,
            exit_code=result.exit_code,
            outputs=result.outputs,
            evidence=evidence,
            warnings=result.warnings,
            error=result.error,
            started_at_ms=result.started_at_ms,
            ended_at_ms=result.ended_at_ms,
        )
    )


def outcome_of(error: AgentError) -> Outcome:
    if error.lost:
        return Outcome.LOST
    return Outcome.RETRYABLE if error.retryable else Outcome.FAILED


def task_error(error: AgentError | None) -> TaskError | None:
    if error is None:
        return None
    return TaskError(
        code=error.code,
        message=error.message[: 2 * KIB],
        exit_code=error.exit_code,
        details=((error.details or {}) | ({"fix": error.fix} if error.fix else {})) or None,
    )
