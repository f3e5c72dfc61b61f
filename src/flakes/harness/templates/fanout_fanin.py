"""One worker for each item, all at the same time; then one that brings their results together."""

from dataclasses import dataclass, field

from flakes.harness import Context, Outcome, define_harness


@dataclass
class Args:
    task: str = "Summarise the item"
    items: list[str] = field(default_factory=lambda: ["first item", "second item", "third item"])
    tolerate: int = 0
    """So many workers may fail."""


@define_harness(args=Args)
async def main(ctx: Context[Args]) -> Outcome:
    ctx.phase("fan out")
    workers = [
        ctx.agent(f"{ctx.args.task}:\n\n{item}", title=f"Item {number}", output=str)
        for number, item in enumerate(ctx.args.items, 1)
    ]
    results = await ctx.all(workers, settled=True)
    good = [result for result in results if result.ok]
    lost = len(results) - len(good)
    if not good or lost > ctx.args.tolerate:
        return ctx.failed(f"{lost} of {len(results)} workers failed", done=len(good))

    ctx.phase("fan in")
    summary = await ctx.agent(
        "Bring the results of the workers together into one text.", title="Bring together", inputs=good, output=str
    )
    return ctx.succeeded(summary=summary.data, done=len(good), lost=lost)
