"""Every limit of the product, with its unit, in one place. Breaking one is a clear 4xx that changes nothing."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

KEY_LENGTH_MAX: Final = 64
NAME_LENGTH_MAX: Final = 200
TITLE_LENGTH_MAX: Final = 500

ADMISSION_TASKS_MAX: Final = 10_000
REQUEST_SIZE_BYTES_MAX: Final = 32 * MIB
TASK_BODY_SIZE_BYTES_MAX: Final = 256 * KIB
ACCEPTANCE_COUNT_MAX: Final = 64
ACCEPTANCE_LENGTH_MAX: Final = 2_000
TASK_INPUT_SIZE_BYTES_MAX: Final = 64 * KIB
METADATA_SIZE_BYTES_MAX: Final = 16 * KIB
DEPENDENCIES_PER_TASK_MAX: Final = 1_000
CAPABILITIES_MAX: Final = 64
VERIFY_COMMANDS_MAX: Final = 32
PRIORITY_MAX: Final = 1_000
TIMEOUT_S_MAX: Final = 30 * 24 * 3600

DECLARED_OUTPUTS_MAX: Final = 64
OUTPUT_SIZE_BYTES_MAX: Final = 64 * MIB
OUTPUT_SIZE_BYTES_DEFAULT: Final = MIB
OUTPUT_INLINE_BYTES_MAX: Final = 8 * KIB

OUTPUT_SCHEMA_SIZE_BYTES_MAX: Final = 64 * KIB
OUTPUT_PROBLEMS_MAX: Final = 20

ARTIFACT_SIZE_BYTES_MAX: Final = 5 * GIB
ARTIFACT_INLINE_BYTES_MAX: Final = 16 * MIB
ARTIFACT_NAME_LENGTH_MAX: Final = 255
INPUT_ARTIFACTS_MAX: Final = 64
INPUT_ARTIFACTS_SIZE_BYTES_MAX: Final = 10 * GIB
"""All artifacts that one task names as inputs, together."""
ARTIFACT_PIECE_BYTES_MAX: Final = 2 * MIB
"""What a running task sends or reads of an artifact at once."""

WORKSPACE_PACK_SIZE_BYTES_MAX: Final = 2 * GIB
WORKSPACE_PACKS_MAX: Final = 64
"""Packs of one handle; whoever would need more packs everything anew."""
WORKSPACE_PATH_LENGTH_MAX: Final = 4_096
WORKSPACE_SCOPE_MAX: Final = 256
WORKSPACE_CHANGES_MAX: Final = 2_000
"""Changed paths that a handle names."""
WORKSPACE_INPUTS_MAX: Final = 16
WORKSPACE_DIFF_FILE_BYTES_MAX: Final = MIB
"""A larger file has no patch in an answer of the server; `flakes diff` has it."""
WORKSPACE_DIFF_PAGE_BYTES_MAX: Final = 4 * MIB
WORKSPACE_DIFF_PACKS_BYTES_MAX: Final = GIB
"""Packs of one handle that the server takes in to compare."""

LOG_LINE_BYTES_MAX: Final = 8 * KIB
TASK_LOG_SIZE_BYTES_MAX: Final = 64 * MIB
TRANSCRIPT_SIZE_BYTES_MAX: Final = 64 * MIB
"""Of one attempt, native records among it; then an eighth more for what people and the sandbox say."""
"""What is kept of a task's log, over all its attempts. Beyond it, lines in the middle are dropped."""
STREAM_FRAME_BYTES_MAX: Final = MIB

WORKPAD_SIZE_BYTES_MAX: Final = 512 * KIB
RESERVATION_SELECTORS_MAX: Final = 256
RESERVATIONS_HELD_MAX: Final = 4_096
RESERVATION_PATH_LENGTH_MAX: Final = 1_024
RESERVATION_REASON_LENGTH_MAX: Final = 500
OPERATION_SIZE_BYTES_MAX: Final = 4 * MIB
"""Body of one operation of a running task: a full workpad, each byte escaped, fits."""

JOURNAL_INLINE_BYTES_MAX: Final = 64 * KIB
"""An entry of a harness's journal; a larger one goes to the blob store."""
JOURNAL_ENTRY_BYTES_MAX: Final = 8 * MIB
JOURNAL_APPEND_ENTRIES_MAX: Final = 10_000
"""Entries of one request."""
JOURNAL_APPEND_BYTES_MAX: Final = 24 * MIB
JOURNAL_ENTRIES_MAX: Final = 1_000_000

MESSAGE_LENGTH_MAX: Final = 20_000
MESSAGES_UNREAD_MAX: Final = 1_000
"""Messages to one attempt that it has not read yet."""
PERMISSION_PROMPT_LENGTH_MAX: Final = 4_000
PERMISSION_TEXT_LENGTH_MAX: Final = 2_000
"""The action of a request, and the reason of an answer."""
PERMISSION_DETAILS_BYTES_MAX: Final = 16 * KIB
PERMISSIONS_PENDING_MAX: Final = 64
"""Requests of one attempt that wait for an answer."""
PERMISSION_EXPIRY_S_MAX: Final = 30 * 24 * 3600
PERMISSION_WAIT_S_MAX: Final = 25.0
"""How long the server holds one poll of a request."""

SPAWN_TASKS_MAX: Final = 256
"""Children of one request."""
CHILDREN_MAX: Final = 10_000
"""Children of one task, over all its attempts."""
CHILDREN_PAGE_MAX: Final = 1_000
SPAWN_DEPTH_MAX: Final = 16
"""Generations below a task of the graph."""
GROUPS_PER_TASK_MAX: Final = 1_000
WAITS_PER_TASK_MAX: Final = 20_000
WAIT_S_MAX: Final = 366 * 24 * 3600
WAIT_HOLD_S_MAX: Final = 25.0
"""How long the server holds one request that waits."""
SIGNAL_SIZE_BYTES_MAX: Final = 64 * KIB
SIGNALS_UNREAD_MAX: Final = 1_000
"""Signals to one task that no wait has taken."""

ROUND_PROMPT_LENGTH_MAX: Final = 100_000
"""Characters of a prompt to a live child, and of the words that close a round."""
ROUND_OUTPUTS_BYTES_MAX: Final = MIB
"""All outputs of one round, as JSON."""
ROUNDS_OPEN_MAX: Final = 64
"""Rounds of one task that are not over."""
ROUNDS_MAX: Final = 10_000
LIVE_IDLE_S_DEFAULT: Final = 86_400.0
"""How long a live task may go without a prompt before it is asked to end."""
LIVE_GRACE_S_DEFAULT: Final = 60.0
"""How long it may take to end then."""

PAGE_LENGTH_DEFAULT: Final = 50
PAGE_LENGTH_MAX: Final = 200
LOG_PAGE_LENGTH_MAX: Final = 1_000

POOLS_PER_HOST_MAX: Final = 64
BINDINGS_PER_HOST_MAX: Final = 256
HOST_PATH_LENGTH_MAX: Final = 1_024
"""An absolute path on a host."""
CREDENTIALS_PER_HOST_MAX: Final = 8
"""That work at the same time: one in use and those it takes the place of."""
CONCURRENCY_MAX: Final = 1_024

EXPORTS_AT_ONCE_MAX: Final = 2
"""Histories that one server streams at the same time; each holds a connection and a snapshot."""

ATTEMPTS_MAX: Final = 100
INFRASTRUCTURE_RETRIES_MAX: Final = 5
