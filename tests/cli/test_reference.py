"""The command reference is what the program says about itself."""

from __future__ import annotations

from pathlib import Path

import click

from flakes.cli.main import COMMANDS, cli
from flakes.cli.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == reference(), "python -m flakes.cli.reference > docs/reference/cli.md"


def test_the_short_help_in_the_table_is_that_of_the_command() -> None:
    context = click.Context(cli)
    for name, (_, text) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert (command.help or "").split("\n")[0] == text


def test_every_command_takes_json_and_every_option_has_help() -> None:
    def leaves(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
        if not isinstance(command, click.Group):
            return [(path, command)]
        context = click.Context(command)
        found = []
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found += leaves(child, f"{path} {name}")
        return found

    for path, command in leaves(cli, "flakes"):
        names = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in names, path
        assert command.help, path
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (path, parameter.name)
