"""Whether this machine can serve the projects that it is asked to: looked at here, told as codes.

The control plane sends the project root and the bindings; what is on the disk is nobody's business but
this module's, so nothing but a code of `BINDING_REASONS` leaves it. Bindings are looked at when they come
and again every few seconds, so a directory that is made, or removed, is noticed.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import structlog

from flakes.core import keys, project_root
from flakes.wire.host_stream import Binding, BindingReport, Bindings, BindingState

LOOK_EVERY_S: Final = 5.0

log = structlog.get_logger("flakes.host")


class Projects:
    """The bindings of this host. `take` on the event loop; `watch` is a task for as long as the host runs."""

    def __init__(
        self,
        pool_keys: Collection[str],
        report: Callable[[BindingReport], None],
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._pool_keys = frozenset(pool_keys)
        self._report = report
        self._look_every_s = look_every_s
        self._root: str | None = None
        self._bindings: list[Binding] = []
        self._told: dict[str, BindingState] = {}
        self._news = asyncio.Event()

    def take(self, order: Bindings) -> None:
        """These are the bindings from now on; each of them is answered."""
        self._root = order.root
        self._bindings = list(order.bindings)
        self._told = {}
        self._news.set()

    async def watch(self) -> None:
        """Look, tell what changed, and again; until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._news.wait(), self._look_every_s)
            except TimeoutError:
                pass
            self._news.clear()
            root, wanted = self._root, self._bindings
            found = await asyncio.to_thread(
                lambda: [look(root, each, self._pool_keys) for each in wanted]  # noqa: B023
            )
            if wanted is not self._bindings:
                continue  # others came meanwhile
            changed = [state for state in found if self._told.get(state.binding_id) != state]
            self._told = {state.binding_id: state for state in found}
            if changed:
                self._report(BindingReport(bindings=changed))
                bad = sorted({state.reason for state in changed if not state.available})
                log.info("projects_looked_at", changed=len(changed), problems=bad)


def look(root: str | None, binding: Binding, pool_keys: Collection[str]) -> BindingState:
    """One binding as it is at this moment. Blocking file access; never raises."""
    reason = _problem(root, binding, pool_keys)
    return BindingState(
        binding_id=binding.binding_id, revision=binding.revision, available=not reason, reason=reason
    )


def _problem(root: str | None, binding: Binding, pool_keys: Collection[str]) -> str:
    if root is None:
        return "workspace_root_missing"
    if not set(pool_keys).intersection(binding.pool_keys):
        return "pool_unknown"
    if not os.path.isabs(root) or not keys.is_key(binding.project_key):  # noqa: PTH117
        return "workspace_root_not_found"
    try:
        real_root = Path(root).resolve(strict=True)
        if not real_root.is_dir():
            return "workspace_root_not_found"
    except (OSError, RuntimeError, ValueError):
        return "workspace_root_not_found"
    try:
        real = Path(project_root.workspace_path(root, binding.project_key)).resolve(strict=True)
        mode = real.stat().st_mode
    except PermissionError:
        return "workspace_not_accessible"
    except (OSError, RuntimeError, ValueError):
        return "workspace_not_found"
    if real_root not in real.parents:
        return "workspace_outside_root"
    if not stat.S_ISDIR(mode):
        return "workspace_not_directory"
    return "" if os.access(real, os.R_OK | os.W_OK | os.X_OK) else "workspace_not_accessible"
