"""A paper: an author, a critic and a rewriter in rounds, and blind judges who rank the versions.

In each round the judges see the incumbent, a rewritten version and a merged one under letters, each judge in
another order, and rank them; places are counted by Borda (2, 1, 0), and the incumbent wins ties. An incumbent
that wins twice in a row has converged.
"""

from dataclasses import dataclass
from typing import Any, Literal

from flakes.harness import Context, Outcome, Result, define_harness

LETTERS = ("X", "Y", "Z")


@dataclass
class Args:
    task: str = "Write a one-page paper on the project's main idea"
    rounds: int = 3
    judges: int = 3


@dataclass
class Critique:
    problems: list[str]


@dataclass
class Ranking:
    ranking: list[Literal["X", "Y", "Z"]]
    """Best first."""


@define_harness(args=Args)
async def main(ctx: Context[Args]) -> Outcome:
    task = ctx.args.task
    incumbent: Result[str] = await ctx.agent(task, title="Author", output=str)
    wins = 0
    for number in range(1, ctx.args.rounds + 1):
        ctx.phase(f"round {number}")
        critique = await ctx.agent(
            f"Find the problems of the paper in your inputs. Its task: {task}",
            title=f"Critic {number}", inputs=[incumbent], output=Critique,
        )  # fmt: skip
        if not critique.data.problems:
            break
        problems = "\n".join(f"- {each}" for each in critique.data.problems)
        rewritten = await ctx.agent(
            f"{task}\n\nRewrite the paper in your inputs. Its problems:\n{problems}",
            title=f"Rewrite {number}", inputs=[incumbent], output=str,
        )  # fmt: skip
        merged = await ctx.agent(
            f"{task}\n\nMake one paper of the best of both in your inputs.",
            title=f"Merge {number}", inputs=[incumbent, rewritten], output=str,
        )  # fmt: skip
        versions = [incumbent, rewritten, merged]
        winner = await judged(ctx, number, versions)
        ctx.log(f"round {number}: {('the incumbent', 'the rewritten', 'the merged')[winner]} version wins")
        wins = wins + 1 if winner == 0 else 0
        incumbent = versions[winner]
        if wins == 2:
            break
    return ctx.succeeded(paper=incumbent.data, converged=wins == 2)


async def judged(ctx: Context[Args], number: int, versions: list[Result[str]]) -> int:
    """Which version has most points."""
    orders = [[(place + judge) % 3 for place in range(3)] for judge in range(ctx.args.judges)]
    judges = [
        ctx.agent(
            "Rank these papers, best first, by letter.\n\n" + _shown(order, versions),
            title=f"Judge {number}.{judge}", output=Ranking,
        )
        for judge, order in enumerate(orders, 1)
    ]  # fmt: skip
    points = [0, 0, 0]
    for order, result in zip(orders, await ctx.all(judges), strict=True):
        for place, letter in enumerate(result.data.ranking[:3]):
            points[order[LETTERS.index(letter)]] += 2 - place
    return points.index(max(points))


def _shown(order: list[int], versions: list[Any]) -> str:
    return "\n\n".join(f"## {letter}\n\n{versions[number].data}" for letter, number in zip(LETTERS, order, strict=True))
