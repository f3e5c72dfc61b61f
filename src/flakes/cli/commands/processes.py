"""`flakes server` and `flakes sandbox`: long-lived processes, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from flakes.cli.options import json_option
from flakes.cli.output import Output

config_option = click.option(
    "-c",
    "--config",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="The configuration file.",
)
dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Check the configuration, print a summary without secrets, and end.",
)


@click.command()
@config_option
@click.option("--host", help="Listen at this address instead of the configured one.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Listen at this port instead.")
@dry_run_option
@json_option
def server(path: Path, host: str | None, port: int | None, dry_run: bool, as_json: bool) -> int:
    """Run a control plane in the foreground."""
    import msgspec

    from flakes.server.main import run
    from flakes.wire.config import ServerConfig, load

    config = load(path, ServerConfig)
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    if changes:
        listen = msgspec.structs.replace(config.listen, **changes)
        config = msgspec.structs.replace(config, listen=listen)
    return run(config, dry_run=dry_run)


@click.command()
@config_option
@dry_run_option
@json_option
def sandbox(path: Path, dry_run: bool, as_json: bool) -> int:
    """Run a sandbox daemon in the foreground."""
    from flakes.sandbox.main import describe, run
    from flakes.wire.config import SandboxConfig, load

    config = load(path, SandboxConfig)
    if dry_run:
        Output(as_json).data(describe(config))
        return 0
    return run(config, dry_run=False)
