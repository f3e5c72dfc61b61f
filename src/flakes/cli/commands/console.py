"""`flakes console`: the web console, opened by a browser that needs no password."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, remote_options
from flakes.cli.render.parts import dim
from flakes.session.setup import console_link

if TYPE_CHECKING:
    from flakes.cli.output import Output
    from flakes.client.api import Client


@click.command()
@click.option("--open", "open_browser", is_flag=True, help="Open it in this machine's browser.")
@remote_options
@asks
async def console(client: Client, output: Output, open_browser: bool) -> None:
    """Open the console in a browser that is signed in by a one-time link.

    Prints its address. The link works once, for ten minutes.
    """
    from flakes.cli.browser import open_page

    made = await client.make_browser_link()
    url = console_link(client.server, made.code)
    opened = open_browser and open_page(url)
    if output.as_json:
        output.data({"consoleUrl": url, "expiresAt": made.expires_at, "opened": opened})
        return
    output.line(url)
    if open_browser and not opened:
        output.talk(dim("no browser could be started here: open the address by hand"))
