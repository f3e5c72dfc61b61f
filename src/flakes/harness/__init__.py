"""Harnesses: Python that begins agents and commands, waits for them, compares and decides, durably.

    from flakes.harness import define_harness

    @define_harness
    async def main(ctx):
        drafts = await ctx.all(ctx.agent("Draft the notes", title=f"Draft {n}") for n in range(3))
        best = await ctx.agent("Pick the best draft", inputs=drafts, output=Verdict)
        return ctx.succeeded(winner=best.data.winner)

The module runs again from the top whenever its task goes on; everything that it did before comes from its
journal. Nothing here needs anything but the standard library.
"""

from flakes.harness.children import Child, Result
from flakes.harness.context import Context
from flakes.harness.declaring import OutputSpec
from flakes.harness.definition import Defaults, Harness, Outcome, define_harness
from flakes.harness.errors import ChildFailed, HarnessError
from flakes.harness.groups import Group
from flakes.harness.live import Round, RoundResult

__all__ = [
    "Child", "ChildFailed", "Context", "Defaults", "Group", "Harness", "HarnessError", "Outcome", "OutputSpec",
    "Result", "Round", "RoundResult", "define_harness",
]  # fmt: skip
