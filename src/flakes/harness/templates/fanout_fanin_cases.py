"""What `fanout_fanin` does."""

from flakes.harness.cases import Case, Done, Failed, Fixture, FixtureChild


def good(child: FixtureChild) -> Fixture:
    if child.title == "Bring together":
        return Done(outputs={"result": f"all of {len(child.inputs)}"})
    return Done(outputs={"result": f"about {child.title}"})


def one_fails(child: FixtureChild) -> Fixture:
    return Failed("no idea") if child.title == "Item 2" else good(child)


CASES = [
    Case("all succeed", good, data={"summary": "all of 3", "done": 3, "lost": 0}, count=4),
    Case("one may fail", one_fails, {"tolerate": 1}, data={"summary": "all of 2", "done": 2, "lost": 1}, count=4),
    Case("one may not fail", one_fails, status="failed", count=3),
]
