"""`flakes metrics`: what a run's time went into, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, remote_options
from flakes.cli.output import Output
from flakes.cli.render import state as states
from flakes.cli.render.parts import Part, bold, dim
from flakes.cli.render.text import duration

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.metrics import Distribution, RunMetrics

_MEANINGS = {
    "queue": "ready to offered",
    "assignment": "offered to accepted",
    "run": "accepted to ended",
    "wait": "asked to answered",
}


@click.command()
@click.argument("run")
@remote_options
@asks
async def metrics(client: Client, output: Output, run: str) -> None:
    """Measure a run: waiting and running times, success, retries.

    RUN is an id or a key. A live run's numbers still move.
    """
    found = await client.run_metrics(run)
    if output.as_json:
        output.data(found)
        return
    _show(output, found)


def _show(output: Output, found: RunMetrics) -> None:
    output.line(
        states.state(found.state, with_glyph=True), "  ", bold(found.run_key), dim(f"  {found.run_id}")
    )
    success = found.success
    rate = "-" if success.rate is None else f"{success.rate:.1%}"
    mean = found.parallelism.mean
    output.table([
        [dim("wall time"), duration(found.wall_ms / 1000)],
        [dim("success"), f"{rate} of {success.tasks:,} tasks: {success.succeeded:,} succeeded,"
         f" {success.failed:,} failed, {success.cancelled:,} cancelled, {success.live:,} live"],
        [dim("attempts"), f"{found.attempts:,}, {found.retries:,} of them retries"],
        [dim("lost"), f"{found.infrastructure_losses:,} to infrastructure, {found.declined:,} declined,"
         f" {found.offers_not_taken:,} not taken"],
        [dim("parallel"), f"{'-' if mean is None else f'{mean:.1f}'} on average, {found.parallelism.max:,} at most"],
    ])  # fmt: skip
    output.line()
    rows = [
        _row(name, getattr(found, name), meaning) for name, meaning in _MEANINGS.items()
    ]
    output.table(rows, ["TIME", "COUNT", "MEAN", "P50", "P90", "P99", "MAX", ""])


def _row(name: str, spread: Distribution, meaning: str) -> list[Part]:
    values = (spread.mean_ms, spread.p50_ms, spread.p90_ms, spread.p99_ms, spread.max_ms)
    shown = ["-" if value is None else duration(value / 1000) for value in values]
    return [name, f"{spread.count:,}", *shown, dim(meaning)]
