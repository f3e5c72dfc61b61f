"""Experiments one after the other: each builds on the best so far, and is kept when its score is higher."""

from dataclasses import dataclass
from typing import Literal

from flakes.harness import Context, Outcome, define_harness


@dataclass
class Args:
    goal: str = "Make the benchmark faster"
    iterations: int = 3
    patience: int = 2
    """So many in a row may bring nothing."""


@dataclass
class Experiment:
    decision: Literal["keep", "discard", "crash"]
    score: float
    summary: str


@define_harness(args=Args)
async def main(ctx: Context[Args]) -> Outcome:
    best: tuple[float, str] | None = None
    history: list[str] = []
    idle = 0
    for number in range(1, ctx.args.iterations + 1):
        ctx.phase(f"experiment {number}")
        known = "\n".join(f"- {line}" for line in history) or "- nothing yet"
        result = await ctx.agent(
            f"Goal: {ctx.args.goal}\n\nKnown:\n{known}\n\nTry one idea. Measure it. Report a score; higher is better.",
            title=f"Experiment {number}", output=Experiment,
        ).settled()  # fmt: skip
        if not result.ok:
            history.append(f"{number}: crashed ({result.reason})")
            idle += 1
        else:
            found = result.data
            history.append(f"{number}: {found.decision}, score {found.score:g}: {found.summary}")
            better = found.decision == "keep" and (best is None or found.score > best[0])
            best, idle = ((found.score, found.summary), 0) if better else (best, idle + 1)
        ctx.log(history[-1])
        if idle == ctx.args.patience:
            break
    if best is None:
        return ctx.failed("no experiment was worth keeping", history=history)
    return ctx.succeeded(score=best[0], summary=best[1], history=history)
