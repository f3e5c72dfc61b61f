"""An outline, its sections written at the same time, and an editor who makes one text of them."""

from dataclasses import dataclass

from flakes.harness import Context, Outcome, define_harness


@dataclass
class Args:
    subject: str = "How this project works"
    sections: int = 4
    """At most so many."""


@dataclass
class Section:
    title: str
    about: str


@dataclass
class Outline:
    sections: list[Section]


@define_harness(args=Args)
async def main(ctx: Context[Args]) -> Outcome:
    outline = await ctx.agent(
        f"Outline a text on: {ctx.args.subject}. At most {ctx.args.sections} sections.", title="Outline", output=Outline
    )
    planned = outline.data.sections[: ctx.args.sections]
    if not planned:
        return ctx.failed("the outline is empty")

    async with ctx.group("sections") as sections:
        for number, section in enumerate(planned, 1):
            sections.agent(
                f"Write the section {section.title!r} of a text on {ctx.args.subject}. It is about: {section.about}",
                title=f"Section {number}", inputs=[outline], output=str,
            )  # fmt: skip

    text = await ctx.agent(
        "Make one text of the sections in your inputs, in their order. Mend repetitions and transitions.",
        title="Edit", inputs=sections.results, output=str,
    )  # fmt: skip
    return ctx.succeeded(text=text.data, sections=[section.title for section in planned])
