"""An implementer and a reviewer: findings that block go back until there are none, or the rounds are over."""

from dataclasses import dataclass, field
from typing import Literal

from flakes.harness import Context, Outcome, define_harness

BLOCKING = ("critical", "high", "medium")


@dataclass
class Args:
    request: str = "Mend the failing test"
    rounds: int = 3


@dataclass
class Change:
    summary: str
    patch: str


@dataclass
class Finding:
    severity: Literal["critical", "high", "medium", "low"]
    where: str
    what: str


@dataclass
class Review:
    findings: list[Finding] = field(default_factory=list)


@define_harness(args=Args)
async def main(ctx: Context[Args]) -> Outcome:
    change = await ctx.agent(ctx.args.request, title="Implement", output=Change)
    for number in range(1, ctx.args.rounds + 1):
        ctx.phase(f"review {number}")
        review = await ctx.agent(
            f"Review the change in your inputs. It was asked for: {ctx.args.request}. At most four findings.",
            title=f"Review {number}", inputs=[change], output=Review,
        )  # fmt: skip
        blocking = [each for each in review.data.findings if each.severity in BLOCKING]
        if not blocking:
            outcome = "accepted-with-nonblocking-findings" if review.data.findings else "accepted"
            return ctx.succeeded(outcome=outcome, summary=change.data.summary, patch=change.data.patch, rounds=number)
        todo = "\n".join(f"- {each.severity}: {each.where}: {each.what}" for each in blocking)
        change = await ctx.agent(
            f"{ctx.args.request}\n\nYour change is in your inputs. Mend what the review found:\n{todo}",
            title=f"Fix {number}", inputs=[change], output=Change,
        )  # fmt: skip
    return ctx.failed(
        f"findings are left after {ctx.args.rounds} rounds", outcome="round-limit", patch=change.data.patch
    )
