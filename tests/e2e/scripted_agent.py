"""An agent by script: reads its brief from standard input, and leaves what a task of that title has to leave.

It works for every template: first reviews find something, second ones do not, and what is made of inputs names them.
"""

import json
import os
import re
import sys
from pathlib import Path

brief = sys.stdin.read()
title = brief.split("\n", 1)[0].removeprefix("# ")
kind, _, number = title.partition(" ")
inputs = Path(os.environ["FLAKES_INPUTS"])
given = sorted(path.read_text() for path in inputs.glob("*/result")) if inputs.is_dir() else []


def judged():
    shown = re.findall(r"^## ([XYZ])\n\n(.+)$", brief, re.M)
    return {"ranking": [letter for letter, text in sorted(shown, key=lambda pair: "Merge" not in pair[1])]}


def reviewed():
    if "at most four findings" in brief.lower():
        return {"findings": [{"severity": "high" if number == "1" else "low", "where": "a.py:1", "what": "wrong"}]}
    return {"approved": number != "1", "problems": ["too long"] if number == "1" else []}


WORK = {
    "Outline": lambda: {"sections": [{"title": each, "about": "it"} for each in ("One", "Two", "Three")]},
    "Critic": lambda: {"problems": ["no evidence"]},
    "Judge": judged,
    "Review": reviewed,
    "Experiment": lambda: {"decision": "keep", "score": [1, 3, 2][int(number) - 1], "summary": f"idea {number}"},
    "Implement": lambda: {"summary": title, "patch": "+1"},
    "Fix": lambda: {"summary": title, "patch": "+2" if "wrong" in brief and len(given) == 1 else "?"},
    "Bring": lambda: " and ".join(given),
    "Edit": lambda: " and ".join(given),
}
made = WORK.get(kind, lambda: title)()
text = made if isinstance(made, str) else json.dumps(made)
Path(os.environ["FLAKES_OUTPUTS"], "result").write_text(text)
sys.stdout.write("done\n")
