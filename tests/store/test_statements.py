"""Every statement of the store is understood by the migrated schema."""

from __future__ import annotations

import importlib
import pkgutil
import re

import psycopg
import pytest

import flakes.store
from flakes.store.database import Query

_PARAMETER = re.compile(r"%\((\w+)\)s")


def statements() -> list[tuple[str, Query]]:
    found: list[tuple[str, Query]] = []
    for module in pkgutil.iter_modules(flakes.store.__path__):
        loaded = importlib.import_module(f"flakes.store.{module.name}")
        found += [
            (f"{module.name}.{name}", value)
            for name, value in vars(loaded).items()
            if isinstance(value, Query) and getattr(loaded, "__name__", "").endswith(module.name)
        ]
    return found


def numbered(query: str) -> tuple[str, list[str]]:
    """With `$n` in place of `%(name)s`, and the names in that order."""
    names: list[str] = []

    def place(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return _PARAMETER.sub(place, query), names


def test_statements_are_found() -> None:
    names = {name for name, _ in statements()}
    assert len(names) > 80
    assert {"transitions.LOAD", "settlement.COUNT_DOWN", "placement._CLAIM"} <= names


def test_every_statement_is_prepared_by_the_server(database: str) -> None:
    refused: dict[str, str] = {}
    # The driver must not prepare what is executed here by itself: `deallocate all` would take that away.
    with psycopg.connect(database, autocommit=True, prepare_threshold=None) as conn:
        for name, query in statements():
            text, _ = numbered(query)
            try:
                conn.execute(text if text.startswith("set ") else f"prepare s as {text}")  # pyright: ignore[reportArgumentType]
            except psycopg.Error as error:
                refused[name] = str(error)
            else:
                conn.execute("deallocate all")
    assert refused == {}


def test_a_broken_statement_would_be_noticed(database: str) -> None:
    text, names = numbered("select no_such_column from tasks where task_id = %(task_id)s")
    assert (text, names) == ("select no_such_column from tasks where task_id = $1", ["task_id"])
    with psycopg.connect(database, autocommit=True) as conn, pytest.raises(psycopg.Error):
        conn.execute(f"prepare s as {text}")  # pyright: ignore[reportArgumentType]
