"""Migrations are numbered from 0001 upwards, each number once: two that were made side by side must not meet."""

from __future__ import annotations

from flakes.store.migrate import load


def test_every_number_is_taken_once() -> None:
    assert [step.version for step in load()] == list(range(1, len(load()) + 1))
