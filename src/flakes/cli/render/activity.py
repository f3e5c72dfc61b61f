"""The human view of a task's activity: one line an event, with what its data says in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from flakes.cli.output import Output
from flakes.cli.render import state as states
from flakes.cli.render.parts import Part, Span, dim
from flakes.cli.render.text import moment, one_line, shortened
from flakes.wire.events import Event

DETAIL_LENGTH_MAX = 160


def show_activity(output: Output, events: Sequence[Event]) -> None:
    """A table of events, oldest first."""
    rows: list[list[Part]] = []
    for event in events:
        word = event.type.rpartition(".")[2]
        shade = states.colour(word.upper()) or states.colour(word)
        detail = shortened(one_line(_detail(event.data)), DETAIL_LENGTH_MAX)
        rows.append([dim(moment(event.at)), Span(event.type, shade), detail])
    output.table(rows)


def _detail(data: dict[str, Any]) -> str:
    """`attempt 2, sandbox_..., the command ended with exit code 1`."""
    parts: list[str] = []
    for name, value in data.items():
        if value is None or name == "assignmentId":
            continue
        if name == "error" and isinstance(value, dict):
            parts.append(f"{value.get('message', '')} ({value.get('code', '')})")
        elif name in ("sandboxId", "reason", "status", "outcome", "what"):
            parts.append(str(value))
        elif name == "delayS":
            parts.append(f"after {value:g} s")
        else:
            parts.append(f"{name} {value if isinstance(value, str) else json.dumps(value)}")
    return ", ".join(parts)
