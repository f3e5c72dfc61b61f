"""Join rules: what counts mean, against the slow reading of the rule over every order of ends."""

from __future__ import annotations

import itertools

import pytest

from flakes.core.group import Counts, GroupStatus, JoinRule, can_settle, judge

ENDS = ("succeeded", "failed", "cancelled")


def counts(total: int, ends: tuple[str, ...]) -> Counts:
    return Counts(total, *(ends.count(name) for name in ENDS))


def final(rule: JoinRule, needed: int, ends: tuple[str, ...]) -> bool:
    """Whether the rule holds when all have ended."""
    succeeded = ends.count("succeeded")
    return {
        JoinRule.ALL_SUCCESS: succeeded == len(ends), JoinRule.ALL_SETTLED: True,
        JoinRule.FIRST: succeeded >= 1, JoinRule.QUORUM: succeeded >= needed,
        JoinRule.THRESHOLD: len(ends) >= needed,
    }[rule]  # fmt: skip


@pytest.mark.parametrize("rule", JoinRule)
@pytest.mark.parametrize("total", range(5))
@pytest.mark.parametrize("needed", [1, 2, 3])
def test_a_verdict_comes_as_soon_as_it_is_certain_and_never_changes(
    rule: JoinRule, total: int, needed: int
) -> None:
    for known in range(total + 1):
        for ends in itertools.product(ENDS, repeat=known):
            outcomes = {
                final(rule, needed, ends + rest) for rest in itertools.product(ENDS, repeat=total - known)
            }
            verdict = judge(rule, needed, counts(total, ends))
            early = rule is JoinRule.ALL_SETTLED and known < total
            if len(outcomes) > 1 or early:
                # A threshold is reached by ends, not by what they are: it is decided when they come.
                assert verdict is None or rule is JoinRule.THRESHOLD, (ends, outcomes)
            elif rule is JoinRule.THRESHOLD:
                assert verdict is (None if known < needed <= total else _status(total >= needed))
            else:
                assert verdict is _status(outcomes.pop()), ends


def _status(holds: bool) -> GroupStatus:
    return GroupStatus.SUCCEEDED if holds else GroupStatus.FAILED


def test_what_can_never_be_reached_is_known_beforehand() -> None:
    assert not can_settle(JoinRule.QUORUM, 3, 2)
    assert not can_settle(JoinRule.FIRST, None, 0)
    assert can_settle(JoinRule.ALL_SUCCESS, None, 0)
    assert can_settle(JoinRule.THRESHOLD, 2, 2)
