"""What `autowrite` does."""

from flakes.harness.cases import Case, Done, Failed, Fixture, FixtureChild


def writes(child: FixtureChild) -> Fixture:
    if child.title == "Outline":
        sections = [{"title": each, "about": "it"} for each in ("One", "Two", "Three")]
        return Done(outputs={"result": {"sections": sections}})
    return Done(outputs={"result": f"{child.title} of {len(child.inputs)}"})


def stops(child: FixtureChild) -> Fixture:
    return Failed("no words") if child.title == "Section 2" else writes(child)


CASES = [
    Case("three sections", writes, data={"text": "Edit of 3", "sections": ["One", "Two", "Three"]}, count=5),
    Case("fewer than outlined", writes, {"sections": 2}, data={"text": "Edit of 2", "sections": ["One", "Two"]}, count=4),
    Case("a section fails", stops, error="child_unsuccessful", count=4),
]
