"""Running the text of a harness against fixtures."""

from __future__ import annotations

import textwrap
from typing import Any

from flakes.harness.cases import Case
from flakes.harness.checking.check import attempts
from flakes.harness.checking.fixtures import FixtureEngine
from flakes.harness.loading import Source
from flakes.harness.running import Ended, Given, run
from flakes.harness.surroundings import Task

HEAD = """
import asyncio
from dataclasses import dataclass
from flakes.harness import ChildFailed, Context, Defaults, HarnessError, define_harness
"""
TASK = Task("task_test", "harness", "run_test", "test")


def given(body: str, args: Any = None, *, decorator: str = 'defaults=Defaults(adapter="pi")') -> Given:
    """A harness whose `main` has this body."""
    main = f"@define_harness({decorator})\nasync def main(ctx):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return Given(Source("plan.py", HEAD + main, {}), TASK, args)


def ran(body: str, case: Case | None = None, **more: Any) -> tuple[Ended, FixtureEngine]:
    """What came of it, over as many attempts as it took; and the engine, with its journal."""
    engine = FixtureEngine(case or Case("case"))
    ended, _ = attempts(given(body, **more), engine)
    return ended, engine


def again(body: str, engine: FixtureEngine, **more: Any) -> Ended:
    """Another text on the same journal, once."""
    return run(given(body, **more), engine)
