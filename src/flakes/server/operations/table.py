"""The handler of every operation, by name. Equal in its names to `wire.operations.OPERATIONS`."""

from __future__ import annotations

from typing import Final

from flakes.server.operations import (
    artifacts,
    budgets,
    files,
    groups,
    journals,
    permissions,
    rounds,
    waits,
    workpads,
    workspaces,
)
from flakes.server.operations.act import Handler

HANDLERS: Final[dict[str, Handler]] = {
    **workpads.HANDLERS, **files.HANDLERS, **permissions.HANDLERS, **artifacts.HANDLERS,
    **groups.HANDLERS, **waits.HANDLERS, **budgets.HANDLERS, **rounds.HANDLERS,
    **journals.HANDLERS,
    **workspaces.HANDLERS,
}  # fmt: skip
