"""`history.jsonl`: the form of its lines.

One JSON object a line. Every line has `version` (of this form) and `type`; the types come in this order:

- `run` (one): the run as the API shows it.
- `task`: the task as it stands, with its definition and the keys it depends on.
- `attempt`: one assignment of a task.
- `event`: one entry of the event log; its own type is in `event`.
- `log`: one line that a task printed.
- `result`: what a task left behind; outputs by digest, small ones with their text.
- `workpad`: one version of a task's workpad; all that were ever saved, oldest first.
- `message`: a message to an attempt, and what became of it.
- `permission`: a permission request of an attempt, and its answer.
- `reservation`: a path that an attempt holds at this moment.
- `group`: a group of children, by the task that opened it.
- `wait`: what a task waited for, or waits for, and what came of it.
- `signal`: a signal to a task, and the wait that took it.
- `round`: a prompt to a live task, and what completed it.
- `workspace`: a handle: what the run began from, and what was stored in it.
- `promotion`: one move of a ref, in the order in which they were made.
- `merge`: a handle that is to be brought into what is selected, and what became of it.
- `artifact`: what is known of an artifact of the run, without its content.

All lines are of one moment. Times are RFC 3339 in UTC. Secrets of known shapes are replaced by
`[redacted]`. Readers skip types that they do not know.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
MEDIA_TYPE: Final = "application/x-ndjson"
TYPES: Final = (
    "run", "task", "attempt", "event", "log", "result", "workpad", "message", "permission",
    "reservation", "group", "wait", "signal", "round", "workspace", "promotion", "merge", "artifact",
)  # fmt: skip
