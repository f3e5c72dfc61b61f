"""A writer, and a reviewer who sends the text back until it is good, at most `rounds` times."""

from dataclasses import dataclass, field

from flakes.harness import Context, Outcome, define_harness


@dataclass
class Args:
    task: str = "Write a short introduction to the project"
    rounds: int = 3


@dataclass
class Review:
    approved: bool
    problems: list[str] = field(default_factory=list)


@define_harness(args=Args)
async def main(ctx: Context[Args]) -> Outcome:
    text = await ctx.agent(ctx.args.task, title="Write", output=str)
    for number in range(1, ctx.args.rounds + 1):
        ctx.phase(f"round {number}")
        review = await ctx.agent(
            f"Review the text in your inputs against its task: {ctx.args.task}. Approve it, or list its problems.",
            title=f"Review {number}", inputs=[text], output=Review,
        )  # fmt: skip
        if review.data.approved:
            return ctx.succeeded(text=text.data, rounds=number, approved=True)
        problems = "\n".join(f"- {each}" for each in review.data.problems)
        text = await ctx.agent(
            f"{ctx.args.task}\n\nRevise the text in your inputs. These are its problems:\n\n{problems}",
            title=f"Revise {number}", inputs=[text], output=str,
        )  # fmt: skip
    return ctx.succeeded(text=text.data, rounds=ctx.args.rounds, approved=False)
