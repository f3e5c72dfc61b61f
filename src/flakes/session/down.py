"""Stopping a local session, whatever state it is in, and making sure that nothing of it is left.

The supervisor does the orderly work; what it cannot do any more because it was killed is done here in
the same order. Nothing is believed: at the end the processes of the session are looked for again.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from flakes.session import processes
from flakes.session.layout import Layout
from flakes.session.processes import Found
from flakes.session.up import command_lock
from flakes.wire.errors import ApiError


@dataclass(frozen=True, slots=True)
class Down:
    """What ran when the command came. `stopped` is False for a dry run."""

    found: tuple[Found, ...]
    stopped: bool


def down(layout: Layout, *, dry_run: bool = False) -> Down:
    """End the session; nothing running is no error. `session_failed` names what could not be ended."""
    if not layout.root.exists():
        return Down((), stopped=not dry_run)
    if dry_run:
        return Down(tuple(processes.of_session(layout.root)), stopped=False)
    with command_lock(layout):
        found = processes.of_session(layout.root)
        supervisors = [one for one in found if one.role == "supervisor"]
        for one in supervisors:
            processes.send(one.identity, signal.SIGTERM)
        processes.wait_gone(
            [one.identity for one in supervisors], processes.STOP_GRACE_S["supervisor"]
        )
        processes.stop(processes.of_session(layout.root))
        left = processes.of_session(layout.root)
        if left:
            names = ", ".join(f"{one.role} (pid {one.identity.pid})" for one in left)
            raise ApiError(
                "session_failed",
                f"still running: {names}",
                "end these processes by hand, then run `flakes down` again",
            )
        layout.record.unlink(missing_ok=True)
        layout.ready_file.unlink(missing_ok=True)
    return Down(tuple(found), stopped=True)
