"""The command reference, made from the commands themselves: `python -m flakes.cli.reference > docs/reference/cli.md`.

A test keeps the file equal to what this prints, so the page cannot drift from the program.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from flakes.cli.main import cli
from flakes.wire import errors

INTRODUCTION = """\
# Command reference

This page is generated from the program: `python -m flakes.cli.reference > docs/reference/cli.md`.

## Which server

`--server`, else `FLAKES_SERVER`, else the current profile of `~/.config/flakes/config.toml`, else the
local session, which `flakes run` starts when it does not run. The token is `--token` (`-t`), else
`FLAKES_TOKEN`, else the credential file of that profile, else what `flakes auth login` keeps for that
server, else the local session's.

```toml
# ~/.config/flakes/config.toml
current = "work"

[profiles.work]
server = "https://flakes.example.com"
credentialFile = "/home/me/.config/flakes/work.credential"   # mode 0600
```

## Output

Data goes to stdout, everything else to stderr. Every command takes `--json`: stdout is then one JSON
document (one a line where a command follows something), and an error is one JSON object on stderr.
`NO_COLOR` turns colours off, `FORCE_COLOR` turns them on.

## Environment

| Variable | Meaning |
| --- | --- |
| `FLAKES_SERVER` | The control plane to use. |
| `FLAKES_TOKEN` | The bearer token to use. |
| `FLAKES_SESSION` | The local session that commands mean (default `default`). |
| `FLAKES_DATA_DIR` | Where local sessions keep their files. |

## Shell completion

| Shell | Add to its start file |
| --- | --- |
| bash | `eval "$(_FLAKES_COMPLETE=bash_source flakes)"` |
| zsh | `eval "$(_FLAKES_COMPLETE=zsh_source flakes)"` |
| fish | `_FLAKES_COMPLETE=fish_source flakes \\| source` |

## Exit codes

| Code | Meaning |
| --- | --- |
"""

EXITS = {
    errors.EXIT_DONE: "Done.",
    errors.EXIT_INTERNAL: "Internal or server error.",
    errors.EXIT_USAGE: "Usage, or a refused request.",
    errors.EXIT_UNSUCCESSFUL: "The run or task ended unsuccessfully.",
    errors.EXIT_TIMEOUT: "A wait timed out; the work goes on.",
    errors.EXIT_NOT_SIGNED_IN: "Not signed in.",
    errors.EXIT_INTERRUPTED: "Interrupted; the work goes on.",
}


def reference() -> str:
    """The whole page, as Markdown."""
    parts = [INTRODUCTION]
    parts += [f"| {code} | {meaning} |\n" for code, meaning in EXITS.items()]
    parts.append("\n## Commands\n")
    root = click.Context(cli, info_name="flakes")
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        parts += _command(command, root, name)
    return "".join(parts)


def _command(command: click.Command, parent: click.Context, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    yield f"\n### `{context.command_path}`\n\n"
    yield _prose(command.help or "") + "\n"
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            child = command.get_command(context, each)
            assert child is not None
            yield from _command(child, context, each)
        return
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"\n```\n{context.command_path} {usage}\n```\n"
    rows = [
        record
        for parameter in command.params
        if isinstance(parameter, click.Option)
        and (record := parameter.get_help_record(context)) is not None
    ]
    if rows:
        yield "\n| Option | Meaning |\n| --- | --- |\n"
        for option, text in rows:
            yield f"| `{_cell(option)}` | {_cell(text)} |\n"


def _prose(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
