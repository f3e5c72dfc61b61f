"""Commands that work inside a running task only, offered by the ordinary command line too.

In a task they do what the task's own `flakes` does, by the same code; anywhere else they refuse and say
where they work.
"""

from __future__ import annotations

import os

from flakes.wire.errors import ApiError


def in_task(words: tuple[str, ...], *arguments: str, as_json: bool) -> int:
    """The exit code of the in-task command; raises `ApiError` (`outside_task`) outside."""
    if not os.environ.get("FLAKES_TOOL_SOCKET"):
        raise ApiError(
            "outside_task", f"`flakes {' '.join(words)}` works inside a running task only",
            "run it in a task's command; here, see `flakes tasks workpad show` and `flakes runs reservations`",
        )  # fmt: skip
    from flakes.sandbox.tools.shim.commands import run

    return run([*words, *(["--json"] if as_json else []), *arguments])
