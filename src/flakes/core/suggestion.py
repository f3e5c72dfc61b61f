"""The closest known name to one that is not known, for errors that say "did you mean ...?".

Shared by everything that refuses unknown names: workflow files, configuration, command lines. A
suggestion is a courtesy, so its cost is bounded: long names get none, and of a large set of
candidates only the first ones are looked at. Spelling conventions (`runKey`, `run_key`, `run-key`)
count as the same name. The answer depends on the arguments alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import islice
from typing import Final

NAME_LENGTH_CONSIDERED_MAX: Final = 64
CANDIDATES_CONSIDERED_MAX: Final = 1_000
SIMILARITY_MIN: Final = 0.6


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, or None when nothing is near; the earlier one on a tie."""
    folded = _fold(name)
    if not folded or len(name) > NAME_LENGTH_CONSIDERED_MAX:
        return None
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(folded)
    best, best_ratio = None, 0.0
    for candidate in islice(candidates, CANDIDATES_CONSIDERED_MAX):
        other = _fold(candidate)
        if other == folded:
            return candidate
        if len(other) > NAME_LENGTH_CONSIDERED_MAX:
            continue
        matcher.set_seq1(other)
        threshold = max(SIMILARITY_MIN, best_ratio)
        if matcher.real_quick_ratio() < threshold or matcher.quick_ratio() < threshold:
            continue
        ratio = matcher.ratio()
        if ratio >= SIMILARITY_MIN and ratio > best_ratio:
            best, best_ratio = candidate, ratio
    return best


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """``did you mean `x`?``, or an empty string when no candidate is near."""
    found = closest(name, candidates)
    return f"did you mean `{found}`?" if found is not None else ""


def _fold(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")
