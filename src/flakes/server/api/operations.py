"""Routes of operations: one for every entry of `wire.operations`, for the sandbox that runs the task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from flakes.server.handling import refusal
from flakes.server.operations.act import Act, Handler, perform
from flakes.server.operations.table import HANDLERS
from flakes.server.routing import Call, Endpoint
from flakes.wire.errors import ApiError
from flakes.wire.operations import OPERATIONS, Operation

PATH = "/v1/sandboxes/{sandboxId}/assignments/{assignmentId}/operations/"


def _endpoint(name: str, operation: Operation, handler: Handler) -> Endpoint:
    errors = ("stale_assignment", *operation.errors)
    if operation.grant is not None:
        errors += ("grant_required",)
    return Endpoint(
        "POST", PATH + name, _route(name, operation, handler), operation.answer, operation.request,
        family="sandbox", tag="operations", errors=errors, body_max_bytes=operation.body_max_bytes,
        waits=operation.waits, pieces=operation.pieces,
    )  # fmt: skip


def _route(name: str, operation: Operation, handler: Handler) -> Callable[[Call], Awaitable[Any]]:
    async def route(call: Call) -> Any:
        act = Act(
            call.plane, name, call.owner_id, call.path["sandboxId"], call.path["assignmentId"], call.body
        )
        try:
            return await perform(handler, act)
        except ApiError as error:
            if error.code != "stale_assignment":
                raise
            # Not raised: that it was refused has been written down, and stays.
            return refusal(error)

    route.__name__ = name.replace(".", "_")
    route.__doc__ = operation.summary
    return route


ENDPOINTS = [_endpoint(name, each, HANDLERS[name]) for name, each in OPERATIONS.items()]
