"""What `review_fix_loop` does."""

from flakes.harness.cases import Case, Done, Fixture, FixtureChild


def findings(*severities: str) -> Fixture:
    found = [{"severity": each, "where": "a.py:1", "what": "wrong"} for each in severities]
    return Done(outputs={"result": {"findings": found}})


def works(child: FixtureChild) -> Fixture:
    if child.title == "Review 1":
        return findings("high", "low")
    if child.title.startswith("Review"):
        return findings("low")
    return Done(outputs={"result": {"summary": child.title, "patch": "+1"}})


def never(child: FixtureChild) -> Fixture:
    return findings("critical") if child.title.startswith("Review") else works(child)


CASES = [
    Case("fixed in the second round", works, data={
        "outcome": "accepted-with-nonblocking-findings", "summary": "Fix 1", "patch": "+1", "rounds": 2,
    }, count=4),
    Case("never good enough", never, {"rounds": 1}, status="failed", count=3),
]  # fmt: skip
