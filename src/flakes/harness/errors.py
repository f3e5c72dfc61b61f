"""What goes wrong in a harness: every error has a code, a sentence and a fix."""

from __future__ import annotations

from typing import Any, Final

CODES: Final[dict[str, str]] = {
    "harness_invalid": "The module is not a harness, or cannot be loaded.",
    "harness_import_refused": "The module imports something that a harness may not import.",
    "harness_changed": "The module is another one than the journal was written by.",
    "harness_diverged": "A replay does not do what the journal says was done.",
    "harness_nondeterministic": "Something was asked for that a replay could not repeat.",
    "harness_stuck": "Everything waits for something that nothing will settle.",
    "harness_crashed": "The module raised an exception that is not one of Flakes.",
    "harness_result_invalid": "The harness returned something else than an outcome, or too much data.",
    "harness_limit": "A limit of memory, processor time or running time was reached.",
    "journal_unreadable": "The journal cannot be read, so nothing is done.",
    "journal_full": "The journal takes no more; what it holds stays.",
    "child_invalid": "The description of a child is not valid.",
    "child_adapter_missing": "A child names no adapter and there is no default.",
    "child_unsuccessful": "A child did not succeed.",
    "budget_exhausted": "A budget allows no more children, and its owner did not extend it.",
    "wait_stalled": "What is awaited is blocked for good.",
    "join_empty": "There is nothing to wait for, or fewer than asked for.",
    "quorum_unreachable": "Too many children failed for the quorum.",
    "output_missing": "A child left no output of that key.",
    "output_kind_mismatch": "An output is of another kind than it is read as.",
    "output_schema_mismatch": "An output does not have the shape that was asked for.",
    "schema_unsupported": "A type cannot be written as a JSON schema.",
    "child_not_live": "The child takes no rounds: it was not started with `live=True`.",
    "workspace_base_stale": "Something else was selected meanwhile.",
    "round_unsuccessful": "A live round did not complete.",
    "not_available": "This place does not offer the operation.",
    "signal_invalid": "The name of a signal is not a key.",
    "args_invalid": "The arguments do not have the shape that the harness takes.",
    "harness_failed": "The harness ended with `ctx.failed(...)`.",
    "harness_not_awaited": "A method of the context is called and not awaited.",
    "harness_catches_all": "A handler catches what ends a replay.",
    "type_error": "The type checker found a mistake.",
    "case_failed": "A case came to something else than it expects.",
    "case_invalid": "A case, or the file of cases, cannot be used.",
    "template_unknown": "There is no template of that name.",
    "file_exists": "The file is there already.",
}  # fmt: skip


class HarnessError(Exception):
    """A refusal or a failure. `code` is stable, `fix` says what to do, `details` are JSON values."""

    def __init__(self, code: str, message: str, fix: str = "", **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix
        self.details = details

    def body(self) -> dict[str, Any]:
        """As JSON."""
        found: dict[str, Any] = {"error": self.code, "message": self.message, "fix": self.fix}
        return found | ({"details": self.details} if self.details else {})

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class ChildFailed(HarnessError):  # noqa: N818 - what happened, not what it is
    """A child that was awaited did not succeed. `status` is FAILED or CANCELLED, `key` the child's."""

    def __init__(self, key: str, status: str, reason: str) -> None:
        self.key = key
        self.status = status
        self.reason = reason
        super().__init__(
            "child_unsuccessful", f"the child `{key}` ended {status}: {reason}" if reason else f"the child `{key}` ended {status}",
            "look at the child, or wait with `settled=True` and decide by its status",
            key=key, status=status, reason=reason,
        )  # fmt: skip


class Diverged(HarnessError):  # noqa: N818
    """The replay left the journal. Nothing was done after it; catching this does not help."""

    def __init__(self, message: str, recorded: str = "", now: str = "") -> None:
        super().__init__(
            "harness_diverged", message,
            "take what differs between two runs of the module through `ctx` (now, random, reads); for a changed "
            "module use `ctx.patched`",
            recorded=recorded, now=now,
        )  # fmt: skip


class EngineGone(Exception):  # noqa: N818
    """The engine does not answer, or has given the task to somebody else: this process must end."""
