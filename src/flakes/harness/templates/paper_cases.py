"""What `paper` does."""

import re

from flakes.harness.cases import Case, Done, Fixture, FixtureChild


def judges_like(word: str):
    """Children whose judges put the version with this word first."""

    def child_of(child: FixtureChild) -> Fixture:
        if child.title.startswith("Critic"):
            return Done(outputs={"result": {"problems": ["no evidence"]}})
        if child.title.startswith("Judge"):
            shown = re.findall(r"## ([XYZ])\n\n(.+)", child.prompt)
            ranking = [letter for letter, text in sorted(shown, key=lambda pair: word not in pair[1])]
            return Done(outputs={"result": {"ranking": ranking}})
        return Done(outputs={"result": child.title})

    return child_of


def content(child: FixtureChild) -> Fixture:
    if child.title.startswith("Critic"):
        return Done(outputs={"result": {"problems": []}})
    return Done(outputs={"result": child.title})


CASES = [
    Case("the incumbent stays", judges_like("Author"), data={"paper": "Author", "converged": True}, count=13),
    Case("merged versions win", judges_like("Merge"), {"rounds": 1}, data={"paper": "Merge 1", "converged": False}, count=7),
    Case("nothing to criticise", content, data={"paper": "Author", "converged": False}, count=2),
]
