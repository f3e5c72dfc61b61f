"""What a task may say about its agent, checked before anything starts: `input`, `model`, `effort`."""

from __future__ import annotations

import re

from flakes.agents.base import AgentError, Job

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+\[\]-]{0,199}\Z")


def checked_input(job: Job, known: tuple[str, ...]) -> None:
    """Refuse what the adapter does not know in `input`; `env` is everybody's."""
    unknown = sorted(set(job.input) - {"env", *known})
    if unknown:
        names = ", ".join(f"`{name}`" for name in unknown)
        fix = "what the agent is to do belongs into the body of the task"
        raise AgentError("input_invalid", f"this adapter does not know {names} in input", fix)


def checked_model(job: Job, option: str = "--model") -> list[str]:
    """The option for the model, or nothing; a name that could be read as something else is refused."""
    if job.model is None:
        return []
    if not _MODEL.match(job.model):
        raise AgentError(
            "model_invalid", f"`{job.model[:100]}` is not the name of a model",
            "use letters, digits and . _ : / @ + -, as the agent's own list of models has it",
        )  # fmt: skip
    return [option, job.model] if option else [job.model]


def checked_effort(job: Job, option: str, known: tuple[str, ...]) -> list[str]:
    """The option for the effort, or nothing."""
    if job.effort is None:
        return []
    if job.effort not in known:
        raise AgentError(
            "effort_invalid", f"this adapter has no effort `{job.effort[:100]}`", f"one of {', '.join(known)}"
        )
    return [option, job.effort] if option else [job.effort]
