"""One run of a harness, from its text to how this process ends."""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass, replace
from typing import Any, Literal

from flakes.harness.context import Context
from flakes.harness.definition import Defaults, Outcome, outcome_of
from flakes.harness.effects import place
from flakes.harness.engine import Engine
from flakes.harness.errors import Diverged, EngineGone, HarnessError
from flakes.harness.loading import Source, load
from flakes.harness.replay import Replay
from flakes.harness.surroundings import Task

FAILED_FIX = "see its log; when the cause is gone, `flakes tasks retry` takes what succeeded as it is"


@dataclass(frozen=True, slots=True)
class Given:
    """What a harness is started with. `args` and `defaults` are JSON."""

    source: Source
    task: Task
    args: Any = None
    defaults: Any = None
    hold_s: float | None = None
    retries: bool = True
    """Whether a journal that ends with a failure begins another try; otherwise it is only replayed."""
    stand_in: str | None = None
    """The adapter of children when neither they nor any defaults name one; a check has no need of a real one."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: with an outcome, an error, or not yet (`yielded`). `at` is the line that an error is from."""

    status: Literal["succeeded", "failed", "cancelled", "yielded"]
    outcome: Outcome | None = None
    error: HarnessError | None = None
    at: str = ""
    journal_length: int = 0
    children: int = 0


def run(given: Given, engine: Engine) -> Ended:
    """Run it once. Raises `EngineGone`."""
    # Both are only for what a module does in spite of the rules: the same in every replay.
    random.seed(given.task.task_id)
    replay: Replay | None = None

    def say(line: str) -> None:
        (replay or engine).say(line)

    try:
        _refuse(given.source)
        harness = load(given.source, say)
        replay = Replay(
            engine, given.source.digest, given.source.names, versioned=harness.versioned, hold_s=given.hold_s,
            retries=given.retries,
        )  # fmt: skip
        defaults = Defaults.of(given.defaults or {}).over(harness.defaults)
        if defaults.adapter is None:
            defaults = replace(defaults, adapter=given.stand_in)
        context = Context(replay, harness.arguments(given.args), defaults, given.task)
        returned = replay.run(lambda: harness.main(context))
        if replay.yielded:
            return Ended("yielded", journal_length=replay.journal.length)
        outcome = outcome_of(returned)
        replay.finish(outcome.status, outcome.data)
        error = None
        if outcome.status == "failed":
            error = HarnessError("harness_failed", outcome.message, FAILED_FIX, **outcome.data)
        return Ended(outcome.status, outcome, error, "", replay.journal.length, context.budget.children)
    except EngineGone:
        raise
    except HarnessError as error:
        return _failed(replay, error, _line(error, given))
    except MemoryError as error:
        limit = HarnessError("harness_limit", "the harness used too much memory", "raise `limits.memoryMb` in its input")
        return _failed(replay, limit, _line(error, given))
    except Exception as error:  # noqa: BLE001 - whatever a module raises is how it ended
        at = _line(error, given)
        words = "".join(traceback.format_exception_only(error)).strip()
        crash = HarnessError("harness_crashed", f"{words}{f' at {at}' if at else ''}", "mend the module, or catch the exception")
        return _failed(replay, crash, at)


def _refuse(source: Source) -> None:
    """Do not begin what a replay could not repeat; raises `HarnessError` with its line."""
    from flakes.harness.checking.rules import refusal

    for name, text in ((source.name, source.text), *source.files.items()):
        found = refusal(text, name, frozenset(source.names))
        if found is not None:
            where = f"{name}:{found.line}"
            raise HarnessError(found.code, f"{where}: {found.message}", found.fix, line=found.line, file=name)


def _failed(replay: Replay | None, error: HarnessError, at: str) -> Ended:
    """What the module itself ended with is written down; what kept it from running is not."""
    if replay is not None and replay.ended and not isinstance(error, Diverged):
        try:
            replay.finish("failed", error.body())
        except HarnessError as diverged:
            error = diverged
    at = at or (replay.waits_at if replay is not None and error.code == "harness_stuck" else "")
    return Ended("failed", None, error, at, replay.journal.length if replay else 0)


def _line(error: BaseException, given: Given) -> str:
    """The innermost line of the module that an exception came through."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename in given.source.names:
            found = f"{frame.f_code.co_filename.rpartition('/')[2]}:{line}"
    return found or place(given.source.names)
