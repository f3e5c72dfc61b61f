"""Routes of messages to running tasks."""

from __future__ import annotations

from flakes.server.routing import Answer, Call, Endpoint, Page, bounded
from flakes.server.streams.delivery import send_inputs
from flakes.store import messages
from flakes.wire.messages import Message, MessagePost, Messages
from flakes.wire.sandbox_stream import InputMessage


async def post(call: Call) -> Answer:
    """Send a message to a running task."""
    plane = call.plane
    async with plane.database.transaction() as conn:
        message, sandbox_id = await messages.post(conn, call.owner_id, call.path["taskId"], call.body)
    plane.wrote()
    send_inputs(plane, sandbox_id, [_input(message)])
    return Answer(message, 202)


async def page(call: Call) -> Messages:
    """List the messages to a task and what became of them, newest first."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found = await messages.page(
            conn, call.owner_id, call.path["taskId"], before=call.query.cursor, limit=limit
        )
    cursor = found[-1].message_id if len(found) == limit else None
    return Messages(messages=found, next_cursor=cursor)


def _input(message: Message) -> InputMessage:
    return InputMessage(
        assignment_id=message.assignment_id, message_id=message.message_id, mode=message.mode,
        text=message.message,
    )  # fmt: skip


ENDPOINTS = [
    Endpoint("POST", "/v1/tasks/{taskId}/messages", post, Message, MessagePost, status=202, tag="messages",
             errors=("task_not_running", "sandbox_offline", "limit_exceeded")),
    Endpoint("GET", "/v1/tasks/{taskId}/messages", page, Messages, query=Page, tag="messages"),
]  # fmt: skip
