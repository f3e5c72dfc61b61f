"""What `review_revise` does."""

from flakes.harness.cases import Case, Done, Failed, Fixture, FixtureChild


def second_time(child: FixtureChild) -> Fixture:
    if child.title == "Review 1":
        return Done(outputs={"result": {"approved": False, "problems": ["too long"]}})
    if child.title.startswith("Review"):
        return Done(outputs={"result": {"approved": True}})
    if child.title == "Revise 1":
        assert "too long" in child.prompt
    return Done(outputs={"result": child.title})


def never(child: FixtureChild) -> Fixture:
    if child.title.startswith("Review"):
        return Done(outputs={"result": {"approved": False, "problems": ["still too long"]}})
    return Done(outputs={"result": child.title})


CASES = [
    Case("approved the second time", second_time, data={"text": "Revise 1", "rounds": 2, "approved": True}, count=4),
    Case("never approved", never, {"rounds": 1}, data={"text": "Revise 1", "rounds": 1, "approved": False}, count=3),
    Case("no writer", lambda _: Failed("no model"), error="child_unsuccessful", count=1),
]
