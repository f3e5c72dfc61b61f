"""Everything that Flakes says to an agent, composed here and nowhere else.

The brief is the task in the user's words, with what there is to read and to leave behind: it is in the file
``brief.md`` and the first entry of the transcript, so that everybody can read what the agent was told. The
instructions are what every agent is told of its surroundings, for its system prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from flakes.agents.base import AgentError
from flakes.core.limits import KIB
from flakes.sandbox.directory import artifact_names
from flakes.wire.operations import Operation
from flakes.wire.sandbox_stream import Assignment
from flakes.wire.tasks import ARTIFACTS, OutputDeclaration, TaskDefinition
from flakes.wire.waits import Happened

SCHEMA_LENGTH_MAX: Final = 16 * KIB
WORKPAD_LENGTH_MAX: Final = 8_000


def brief_of(definition: TaskDefinition, assignment: Assignment) -> str:
    """The brief as Markdown: title, body, acceptance, what there is to read and to leave behind."""
    parts = [f"# {definition.title}"]
    if definition.body_markdown.strip():
        parts.append(definition.body_markdown.strip())
    if definition.acceptance:
        parts.append("## Acceptance\n\n" + "\n".join(f"- {item}" for item in definition.acceptance))
    if assignment.inputs:
        names = [f"- `{item.task_key}/{item.output_key}`" for item in assignment.inputs]
        parts.append("## Inputs\n\nFiles in `$FLAKES_INPUTS`:\n\n" + "\n".join(names))
    if assignment.artifacts:
        files = artifact_names(assignment.artifacts)
        names = [
            f"- `{files[each.artifact_id]}` ({each.artifact_id}, {each.size_bytes} bytes)"
            for each in assignment.artifacts
        ]
        heading = f"## Artifacts\n\nFiles in `$FLAKES_INPUTS/{ARTIFACTS}`:\n\n"
        parts.append(heading + "\n".join(names))
    if definition.declared_outputs:
        names = [_output(key, declared) for key, declared in definition.declared_outputs.items()]
        parts.append("## Outputs\n\nLeave as files in `$FLAKES_OUTPUTS`:\n\n" + "\n".join(names))
    return "\n\n".join(parts) + "\n"


def instructions_of(
    definition: TaskDefinition, env: Mapping[str, str], tools: Mapping[str, Operation]
) -> str:
    """What an agent is told of its surroundings, with the paths as they are."""
    parts = [
        "You work on one task of a larger run, by yourself: nobody answers unless you ask. Do what the task"
        " says and no more; when it is done, close with a short summary of what you did.",
        f"You are in `{env['FLAKES_WORK_DIR']}`, which is yours alone and is removed after the task.",
    ]
    if "FLAKES_WORKSPACE" in env:
        parts.append(
            "It is a git repository with the project's files as they were when the task began. Change them in place:"
            " whatever differs from that when you are done is kept, committed or not. Ignored files are not, and"
            " there is nowhere to push to."
        )
    elif source := env.get("FLAKES_SOURCE_DIR"):
        parts.append(f"The project's own directory is `{source}` (`$FLAKES_SOURCE_DIR`).")
    if project := env.get("FLAKES_PROJECT_DIR"):
        parts.append(f"What this machine has of the project is in `{project}` (`$FLAKES_PROJECT_DIR`).")
    parts.append(f"What other tasks made for you is below `{env['FLAKES_INPUTS']}` (`$FLAKES_INPUTS`).")
    if definition.declared_outputs:
        names = ", ".join(f"`{key}`" for key in definition.declared_outputs)
        parts.append(
            f"Write what the task promises ({names}) into `{env['FLAKES_OUTPUTS']}` (`$FLAKES_OUTPUTS`), one"
            " file each, named exactly so. The task fails when a promised file is missing or not valid."
        )
    if definition.live_rounds:
        parts.append(
            "You stay up for several prompts, which come one after the other. Do what each asks for, leave the files that"
            f" it asks for in `{env['FLAKES_OUTPUTS']}`, and close it with a short summary; then you hear the next one."
        )
    if definition.permission_mode == "readOnly":
        parts.append("The task is read-only: you may read, and write those files, and change nothing else.")
    if tools:
        names = "\n".join(f"- `{name}`: {tool.summary}" for name, tool in tools.items())
        parts.append("Tools of the run, besides your own:\n\n" + names)
    parts.append(
        "The same is there as the command `flakes` in your shell. Note in the workpad what whoever goes on"
        " after you would need to know."
    )
    return "\n\n".join(parts) + "\n"


def resumed(attempt: int, *, work_is_here: bool) -> str:
    """The first turn of a session that is gone on with."""
    where = "the files you made are in your working directory" if work_is_here else "the files you made are gone"
    return (
        f"Your earlier attempt at this task was interrupted (this is attempt {attempt}). Your conversation so far"
        f" is above; {where}, which may have another path now: look before you rely on a path. A command that was"
        " running then may have run in part or not at all. Go on where you were, and finish the task."
    )


def woken(happened: Sequence[Happened]) -> str:
    """What an agent hears that had yielded, and now goes on."""
    lines = []
    for each in happened:
        what = f"the {each.kind} {each.name}" if each.name else f"the {each.kind} ({each.operation_id})"
        lines.append(f"- {what}: {each.verdict or each.state.replace('_', ' ')}")
    return (
        "You had ended your turn to wait. What you waited for has come:\n\n" + "\n".join(lines)
        + "\n\nGo on from there. To read more, ask for the same wait again: it answers at once.\n"
    )  # fmt: skip


def briefing(brief: str, attempt: int, workpad: str) -> str:
    """The first turn of a new session when an earlier attempt's could not be brought back."""
    parts = [
        brief.rstrip(),
        f"## What came before\n\nThis is attempt {attempt}. An earlier one ended before it was done, and its"
        " conversation could not be brought back. Look at what is there before you begin anew.",
    ]
    if workpad.strip():
        text = workpad.strip()
        cut = "\n\n[cut]" if len(text) > WORKPAD_LENGTH_MAX else ""
        parts.append(f"The task's workpad:\n\n{text[:WORKPAD_LENGTH_MAX]}{cut}")
    return "\n\n".join(parts) + "\n"


def correction(problem: AgentError) -> str:
    """A turn that asks for what is missing."""
    details = f"\n\n{json.dumps(problem.details, ensure_ascii=False)[:4000]}" if problem.details else ""
    fix = f" ({problem.fix})" if problem.fix else ""
    return f"The task is not done yet: {problem.message}{fix}.{details}\n\nMend that, then close again."


def extended(why: str) -> str:
    """The turn after a budget was extended."""
    return f"You were stopped because {why}. There is more now: go on where you were."


def resumed_after_pause() -> str:
    """The turn after a pause that nobody had to end."""
    return "You were paused for a while, for a reason that is none of yours. Go on where you were."


def _output(key: str, declared: OutputDeclaration) -> str:
    line = f"- `{key}` ({declared.kind}{'' if declared.required else ', optional'})"
    schema: dict[str, Any] | None = declared.schema
    if schema is None:
        return line
    text = json.dumps(schema, ensure_ascii=False)
    if len(text) > SCHEMA_LENGTH_MAX:
        return f"{line}, valid by a JSON Schema that is too long to show"
    return f"{line}, valid by this JSON Schema: `{text}`"
