"""`flakes config`: annotated examples of the configuration files."""

from __future__ import annotations

import click

from flakes.cli.options import json_option
from flakes.cli.output import Output


@click.group()
def config() -> None:
    """Print annotated configuration files."""


@config.command()
@click.argument("kind", required=False, type=click.Choice(["server", "sandbox", "host"]))
@json_option
def schema(kind: str | None, as_json: bool) -> None:
    """Print annotated TOML examples for server, sandbox and host, or one of them."""
    from flakes.wire.config import EXAMPLES

    chosen = [kind] if kind else ["server", "sandbox", "host"]
    output = Output(as_json)
    if as_json:
        output.data({name: EXAMPLES[name] for name in chosen})
        return
    output.line("\n".join(EXAMPLES[name] for name in chosen).rstrip("\n"))
