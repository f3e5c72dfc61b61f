"""One session of its own for every module; files run side by side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.stage import Stage, staged


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A session's place, where nothing runs yet."""
    with staged() as one:
        yield one


@pytest.fixture
def session(stage: Stage) -> Stage:
    """The module's session, running."""
    stage.up()
    return stage
