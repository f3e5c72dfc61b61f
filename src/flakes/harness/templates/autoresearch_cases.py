"""What `autoresearch` does."""

from flakes.harness.cases import Case, Done, Failed, Fixture, FixtureChild

SCORES = [("keep", 1.0), ("keep", 3.0), ("keep", 2.0)]


def measured(child: FixtureChild) -> Fixture:
    decision, score = SCORES[child.ordinal]
    return Done(outputs={"result": {"decision": decision, "score": score, "summary": f"idea {child.ordinal + 1}"}})


def crashes(child: FixtureChild) -> Fixture:
    return Failed("it broke") if child.ordinal != 1 else measured(child)


CASES = [
    Case("the best of three", measured, data={
        "score": 3.0, "summary": "idea 2",
        "history": ["1: keep, score 1: idea 1", "2: keep, score 3: idea 2", "3: keep, score 2: idea 3"],
    }, count=3),
    Case("crashes are not the end", crashes, data={
        "score": 3.0, "summary": "idea 2",
        "history": ["1: crashed (it broke)", "2: keep, score 3: idea 2", "3: crashed (it broke)"],
    }, count=3),
    Case("nothing works", lambda _: Failed("it broke"), status="failed", count=2),
]  # fmt: skip
