"""Every error code once: its HTTP status, the CLI's exit code, and what it means.

A refusal is raised as `ApiError` on the server, sent as ``{"error", "message", "fix", ...details}``, and
raised again as the same `ApiError` in clients. A test keeps `docs/reference/errors.md` equal to `CODES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

EXIT_DONE: Final = 0
EXIT_INTERNAL: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNSUCCESSFUL: Final = 3
EXIT_TIMEOUT: Final = 4
EXIT_NOT_SIGNED_IN: Final = 5
EXIT_YIELDED: Final = 75
EXIT_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Code:
    """What a code stands for. `retryable`: the same request may succeed later, unchanged."""

    status: int
    exit: int
    meaning: str
    retryable: bool = False


CODES: Final[dict[str, Code]] = {
    "invalid_request": Code(400, EXIT_USAGE, "The body, a path or a query parameter is not valid; `issues` says where."),
    "graph_invalid": Code(400, EXIT_USAGE, "Unknown dependency, self-dependency, duplicate key or cycle among the tasks."),
    "limit_exceeded": Code(400, EXIT_USAGE, "A documented limit would be broken; `limit` holds it."),
    "code_invalid": Code(400, EXIT_NOT_SIGNED_IN, "The one-time code or link is wrong, used, expired, or was tried too often."),
    "unauthorized": Code(401, EXIT_NOT_SIGNED_IN, "No credential, or one that is unknown, expired or revoked."),
    "forbidden": Code(403, EXIT_USAGE, "The credential is valid but not for this."),
    "stale_assignment": Code(403, EXIT_USAGE, "The assignment is no longer the task's current one; nothing was changed."),
    "grant_required": Code(403, EXIT_USAGE, "The task lacks the tool grant for this; `grant` names it."),
    "not_found": Code(404, EXIT_USAGE, "No such resource among yours."),
    "method_not_allowed": Code(405, EXIT_USAGE, "The path exists, the method does not."),
    "project_conflict": Code(409, EXIT_USAGE, "A project of that key exists and differs."),
    "project_archived": Code(409, EXIT_USAGE, "The project is archived and takes no new runs or bindings."),
    "run_conflict": Code(409, EXIT_USAGE, "A run of that key exists and differs."),
    "run_closed": Code(409, EXIT_USAGE, "The run is closed or cancelled and takes no more tasks."),
    "task_admitted": Code(409, EXIT_USAGE, "The task is admitted and immutable."),
    "task_not_running": Code(409, EXIT_USAGE, "The task has no running assignment."),
    "task_not_terminal": Code(409, EXIT_USAGE, "The task has not ended yet."),
    "task_not_retryable": Code(409, EXIT_USAGE, "Only a failed or cancelled task can be retried."),
    "result_not_ready": Code(409, EXIT_USAGE, "The task has no result yet."),
    "sandbox_offline": Code(409, EXIT_USAGE, "The sandbox that runs the task is not connected; nothing was stored."),
    "permission_already_responded": Code(409, EXIT_USAGE, "The request has its answer already; `permission` holds it."),
    "permission_stale_assignment": Code(409, EXIT_USAGE, "The attempt that asked does not run any more; nobody would hear the answer."),
    "idempotency_conflict": Code(409, EXIT_USAGE, "The Idempotency-Key was used with another body."),
    "workpad_version_conflict": Code(409, EXIT_USAGE, "The workpad was saved by somebody else meanwhile; `current` holds it."),
    "file_reservation_conflict": Code(409, EXIT_USAGE, "Another task has reserved some of these paths; `conflicts` lists them."),
    "idempotency_in_progress": Code(409, EXIT_INTERNAL, "A request with this Idempotency-Key is still running.", retryable=True),
    "run_deleting": Code(409, EXIT_USAGE, "The run is being deleted and takes nothing new; its key is free afterwards."),
    "operation_conflict": Code(409, EXIT_USAGE, "The operation id was used with another meaning."),
    "task_ended": Code(409, EXIT_USAGE, "The task has ended; nobody would take it in."),
    "round_conflict": Code(409, EXIT_USAGE, "The task takes no such round: it is not live, is to end, or has one of that key that is over."),
    "group_closed": Code(409, EXIT_USAGE, "The group is closed and takes no more children."),
    "group_open": Code(409, EXIT_USAGE, "The group is still open: it has to be closed before it can be awaited."),
    "wait_unsatisfiable": Code(409, EXIT_USAGE, "What is waited for can never happen; `counts` or the message says why."),
    "wait_stalled": Code(409, EXIT_USAGE, "Everything that is waited for is blocked behind tasks that have ended; `taskKeys` names it."),
    "wait_deadlock": Code(409, EXIT_USAGE, "A child would wait for the task that waits for it; `taskKeys` names the tasks."),
    "budget_exhausted": Code(409, EXIT_USAGE, "A budget allows no more; `budget`, `scope`, `scopeId`, `spent` and `limit` say which."),
    "journal_conflict": Code(409, EXIT_USAGE, "The journal holds other entries there, or ends before; `length` says where."),
    "digest_mismatch": Code(409, EXIT_USAGE, "The bytes are not those of the digest they were announced with."),
    "artifact_pending": Code(409, EXIT_USAGE, "The artifact's content has not arrived yet."),
    "artifact_ready": Code(409, EXIT_USAGE, "The artifact has its content, which never changes."),
    "upload_offset_conflict": Code(409, EXIT_USAGE, "The bytes do not follow those that arrived; `expectedOffset` says where to go on."),
    "upload_busy": Code(409, EXIT_INTERNAL, "Another request is writing this artifact's content.", retryable=True),
    "host_delete_blocked": Code(409, EXIT_USAGE, "The host still has credentials, leases or instances; `blockers` names them."),
    "sandbox_delete_blocked": Code(409, EXIT_USAGE, "The sandbox is not over, or nobody could clean up after it; `blockers` says why."),
    "sandbox_conflict": Code(409, EXIT_USAGE, "The sandbox is not in a state that allows this."),
    "confirmation_required": Code(400, EXIT_USAGE, "This gives something up for good: `confirm` must be its id."),
    "host_conflict": Code(409, EXIT_USAGE, "The host is not in a state that allows this."),
    "workspace_packs_missing": Code(409, EXIT_USAGE, "Packs that the handle names are not stored; `missing` lists their digests."),
    "workspace_base_stale": Code(409, EXIT_USAGE, "The ref is not what was expected, or the handle was not made from it; `current` holds the ref."),
    "workspace_conflict": Code(409, EXIT_USAGE, "Changes of two sides touch the same lines; `paths` names the files."),
    "workspace_unrelated": Code(409, EXIT_USAGE, "The commits have no common ancestor."),
    "workspace_none": Code(409, EXIT_USAGE, "There are no files of the kind that was asked for."),
    "workspace_path_refused": Code(400, EXIT_USAGE, "Paths that may not be in a workspace, or not where they lie; `paths` names them."),
    "workspace_pack_damaged": Code(409, EXIT_USAGE, "A pack is not a sound git pack, or not the one its digest names."),
    "git_missing": Code(409, EXIT_USAGE, "git is not installed, or not on PATH."),
    "authorization_pending": Code(400, EXIT_NOT_SIGNED_IN, "Nobody has approved the device yet; ask again after the interval."),
    "slow_down": Code(400, EXIT_NOT_SIGNED_IN, "The device asks too often; add five seconds to the interval."),
    "expired_token": Code(400, EXIT_NOT_SIGNED_IN, "The device code is unknown, used or expired; begin again."),
    "access_denied": Code(400, EXIT_NOT_SIGNED_IN, "The user denied the device; or the provider or this server denied the sign-in."),
    "sign_up_closed": Code(403, EXIT_USAGE, "This server makes no new accounts."),
    "too_large": Code(413, EXIT_USAGE, "The request body is larger than its limit."),
    "workpad_too_large": Code(413, EXIT_USAGE, "The workpad is larger than its limit; `limit` holds it in bytes."),
    "range_not_satisfiable": Code(416, EXIT_USAGE, "The byte range lies outside the content."),
    "upgrade_required": Code(426, EXIT_USAGE, "This address speaks WebSocket only."),
    "rate_limited": Code(429, EXIT_INTERNAL, "Too many requests; `Retry-After` says when to come back.", retryable=True),
    "provider_unavailable": Code(503, EXIT_INTERNAL, "The OpenID Connect provider does not answer as it should.", retryable=True),
    "internal_error": Code(500, EXIT_INTERNAL, "A fault of ours; the server log has the details under `requestId`."),
    "database_unavailable": Code(503, EXIT_INTERNAL, "The database does not answer; nothing was changed.", retryable=True),
    "storage_full": Code(503, EXIT_INTERNAL, "The disk of the server is full; nothing was changed.", retryable=True),
    # Codes of the tools themselves: never sent by the server, and printed the same way.
    "usage": Code(0, EXIT_USAGE, "The command line is not valid."),
    "config_invalid": Code(0, EXIT_USAGE, "A configuration file is missing, unreadable or not valid; the message names file, line and key."),
    "outside_task": Code(0, EXIT_USAGE, "The command works inside a running task only."),
    "workflow_invalid": Code(0, EXIT_USAGE, "The workflow file has problems; each is listed with its line."),
    "server_unreachable": Code(0, EXIT_INTERNAL, "Nothing answers at the server's address.", retryable=True),
    "workspace_unreadable": Code(0, EXIT_USAGE, "Files of the workspace cannot be read or captured."),
    "workspace_untrusted": Code(0, EXIT_USAGE, "git does not trust the repository: it belongs to another user."),
    "workspace_file_too_large": Code(0, EXIT_USAGE, "Files of the workspace are larger than what is captured."),
    "apply_would_overwrite": Code(0, EXIT_USAGE, "Files that would be written have changed since the run began; nothing was written."),
    "publish_refused": Code(0, EXIT_USAGE, "The remote did not take the branch; nothing is ever forced."),
    "port_in_use": Code(0, EXIT_USAGE, "Another program listens at the configured address."),
    "agent_missing": Code(0, EXIT_USAGE, "The agent is not on this machine, or the local session does not offer it."),
    "session_failed": Code(0, EXIT_INTERNAL, "The local session did not start; the message holds the tail of its log."),
    "session_not_running": Code(0, EXIT_USAGE, "There is no local session of that name."),
    "timeout": Code(0, EXIT_TIMEOUT, "The wait timed out; the work goes on."),
    "data_dir_version": Code(0, EXIT_USAGE, "The data directory was made by another major version of PostgreSQL."),
    "data_dir_unreachable": Code(0, EXIT_USAGE, "The database user cannot reach the data directory."),
    "schema_newer": Code(0, EXIT_USAGE, "The database was migrated by a newer release."),
    "protocol_error": Code(0, EXIT_INTERNAL, "The peer sent something that this version does not understand."),
}  # fmt: skip


class ApiError(Exception):
    """A refusal with a code of `CODES`. `details` go into the body beside error, message and fix."""

    def __init__(self, code: str, message: str, fix: str = "", **details: Any) -> None:
        super().__init__(message)
        assert code in CODES, code
        self.code = code
        self.message = message
        self.fix = fix
        self.details = details

    @property
    def status(self) -> int:
        """HTTP status."""
        return CODES[self.code].status

    @property
    def exit_code(self) -> int:
        """Exit code of a command that ends with this refusal."""
        return CODES[self.code].exit

    def body(self) -> dict[str, Any]:
        """The JSON body, in the order it is printed."""
        body: dict[str, Any] = {"error": self.code, "message": self.message}
        if self.fix:
            body["fix"] = self.fix
        return body | self.details


def from_body(status: int, body: object) -> ApiError:
    """The `ApiError` that a server answered with; a foreign body becomes `protocol_error`."""
    if isinstance(body, dict):
        details = cast("dict[str, Any]", body).copy()
        code, message, fix = (str(details.pop(name, "")) for name in ("error", "message", "fix"))
        if code in CODES:
            return ApiError(code, message, fix, **details)
    return ApiError(
        "protocol_error",
        f"the server answered {status} with a body that is not one of its errors",
        "check that the address is a Flakes server of a compatible version",
        status=status,
    )


def not_found(what: str) -> ApiError:
    """The same answer for what does not exist and for what is somebody else's."""
    return ApiError("not_found", f"no such {what}", f"check the id or key; list what there is with `flakes {what}s list`")
