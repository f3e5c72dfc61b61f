"""Every row of the reference is built and names the test that shows it, or says that it is planned, and is not there."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from pathlib import Path
from urllib.parse import parse_qsl

import click
import msgspec
import pytest
from click.core import ParameterSource

from coverage_rows import COMMANDS, INSIDE, PLANNED, ROUTES, TYPED
from e2e.test_seed_example import INSIDE as INSIDE_TASK
from e2e.test_seed_example import TRANSCRIPTS
from e2e.transcript import steps
from flakes.cli.main import cli
from flakes.server.app import ENDPOINTS
from flakes.server.routing import Endpoint

ROOT = Path(__file__).parents[2]
ROUTE_ROWS = {row: test for rows in ROUTES.values() for row, test in rows.items()}
COMMAND_ROWS = {row: test for rows in COMMANDS.values() for row, test in rows.items()}


@pytest.mark.parametrize("row", ROUTE_ROWS)
def test_the_route_is_there_unless_it_is_planned(row: str) -> None:
    address, _, query = row.partition("?")
    endpoint = _endpoints().get(_shape(address))
    if ROUTE_ROWS[row] == PLANNED:
        assert endpoint is None, "it is built: name its test in tests/coverage_rows.py"
        return
    assert endpoint is not None, "no route of the server is this one"
    takes = [] if endpoint.query is None else msgspec.structs.fields(endpoint.query)
    asked = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    assert asked <= {field.encode_name for field in takes}


@pytest.mark.parametrize("row", COMMAND_ROWS)
def test_the_command_line_is_understood_unless_it_is_planned(row: str) -> None:
    typed = _filled(row)
    if COMMAND_ROWS[row] == PLANNED:
        with pytest.raises(
            click.UsageError
        ):  # else it is built: name its test in tests/coverage_rows.py
            _parse(typed)
        return
    _parse(typed)


@pytest.mark.parametrize("test", sorted({*ROUTE_ROWS.values(), *COMMAND_ROWS.values()} - {PLANNED}))
def test_the_test_of_a_row_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    assert name in _tests_of(ROOT / file)


@pytest.mark.parametrize(
    "row", [row for row, test in COMMAND_ROWS.items() if test in (TYPED, INSIDE)]
)
def test_what_is_said_to_be_typed_is_typed(row: str) -> None:
    """A transcript has the command with all the options of the row."""
    path, given = _parse(_filled(row))
    assert any(path == each and given <= options for each, options in _typed())


def test_every_route_of_the_reference_is_told_once() -> None:
    shapes = [_shape(row.partition("?")[0]) for row in ROUTE_ROWS]
    assert len(set(shapes)) == len(shapes)


_VALUES = {"n": "10", "version": "1", "project": "alpha", "run": "notes", "task": "draft"}


def _shape(address: str) -> str:
    return re.sub(r":\w+|{\w+}", "{}", address)


def _endpoints() -> dict[str, Endpoint]:
    return {_shape(f"{endpoint.method} {endpoint.path}"): endpoint for endpoint in ENDPOINTS}


def _filled(row: str) -> str:
    return re.sub(r"<(\w+)[^>]*>", lambda match: _VALUES.get(match[1], "x"), row)


def _parse(line: str) -> tuple[str, frozenset[str]]:
    """A command line taken apart as the program would, and not run: the command, and what it was given."""
    program, *rest = shlex.split(line)
    assert program == "flakes"
    command: click.Command = cli
    context = cli.make_context("flakes", rest)
    while isinstance(command, click.Group):
        words = [*context._protected_args, *context.args]
        name, found, rest = command.resolve_command(context, words)
        assert found is not None
        command = found
        context = command.make_context(name, rest, parent=context)
    given = {
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    return context.command_path, frozenset(given)


@functools.cache
def _typed() -> list[tuple[str, frozenset[str]]]:
    """What the end-to-end test types, apart from what is refused for its words alone."""
    lines = [step.command for text in TRANSCRIPTS for step in steps(text)]
    lines += [
        line.partition(" > ")[0] for line in INSIDE_TASK.splitlines() if line.startswith("flakes ")
    ]
    return [_parse(line) for line in lines]


@functools.cache
def _tests_of(file: Path) -> set[str]:
    return {
        node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)
    }
