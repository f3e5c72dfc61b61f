"""Cycles against a brute force, and the settlement of blocked tasks: confluent, complete, cascading."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flakes.core.graph import BlockedTask, DependencyFailurePolicy, find_cycle, settle
from flakes.core.task import TERMINAL, TaskEvent, TaskStatus

P, S, E = DependencyFailurePolicy, TaskStatus, TaskEvent
AFTER = {
    E.UNBLOCKED: S.QUEUED,
    E.DEPENDENCY_FAILED: S.FAILED,
    E.DEPENDENCY_CANCELLED: S.CANCELLED,
}
NAMES = [f"n{i}" for i in range(7)]
EDGES = st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=4))


def reaches(edges: dict[str, list[str]], start: str, goal: str) -> bool:
    seen, queue = set[str](), [start]
    while queue:
        for child in edges.get(queue.pop(), []):
            if child == goal:
                return True
            if child in edges and child not in seen:
                seen.add(child)
                queue.append(child)
    return False


@given(EDGES)
def test_a_cycle_is_found_exactly_when_a_node_reaches_itself(edges: dict[str, list[str]]) -> None:
    cycle = find_cycle(edges)
    exists = any(reaches(edges, node, node) for node in edges)
    assert (cycle is not None) == exists
    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert len(cycle) >= 2
        assert len(set(cycle[1:])) == len(cycle) - 1
        for node, child in pairwise(cycle):
            assert child in edges[node]


def test_a_long_chain_needs_no_deep_stack() -> None:
    chain = {f"t{i}": [f"t{i + 1}"] for i in range(50_000)}
    assert find_cycle(chain) is None
    chain["t50000"] = ["t0"]
    cycle = find_cycle(chain)
    assert cycle is not None
    assert len(cycle) == 50_002


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[BlockedTask], dict[str, TaskStatus]]:
    """Blocked tasks over ended and living ones; dependencies point to earlier names only."""
    outside = {
        f"o{i}": draw(st.sampled_from([S.SUCCEEDED, S.FAILED, S.CANCELLED, S.RUNNING, S.QUEUED]))
        for i in range(draw(st.integers(1, 4)))
    }
    blocked: list[BlockedTask] = []
    for i in range(draw(st.integers(1, 9))):
        names = [*outside, *(task.task_id for task in blocked)]
        chosen = draw(st.sets(st.sampled_from(names), min_size=1, max_size=4))
        policy = draw(st.sampled_from(P))
        blocked.append(BlockedTask(f"b{i}", policy, tuple(sorted(chosen))))
    return blocked, outside


def alone(task: BlockedTask, known: dict[str, TaskStatus]) -> TaskEvent | None:
    """The rule of one task, written a second time."""
    states = [known[dependency] for dependency in task.dependencies]
    bad = [state for state in states if state in (S.FAILED, S.CANCELLED)]
    if task.policy is P.FAIL and bad:
        return E.DEPENDENCY_FAILED
    if task.policy is P.CANCEL and bad:
        return E.DEPENDENCY_CANCELLED
    if task.policy is P.CONTINUE:
        return E.UNBLOCKED if all(state in TERMINAL for state in states) else None
    return E.UNBLOCKED if all(state is S.SUCCEEDED for state in states) else None


@given(graphs(), st.randoms(use_true_random=False))
def test_settling_is_confluent_and_complete(
    graph: tuple[list[BlockedTask], dict[str, TaskStatus]], random: object
) -> None:
    blocked, outside = graph
    events = settle(blocked, outside)
    shuffled = list(blocked)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert settle(shuffled, outside) == events
    final = outside | {
        task.task_id: AFTER[events[task.task_id]] if task.task_id in events else S.BLOCKED
        for task in blocked
    }
    for task in blocked:
        # Nobody is left who could move, and nobody moved without a reason.
        assert events.get(task.task_id) == alone(task, final)
    left = [task for task in blocked if task.task_id not in events]
    assert settle(left, final) == {}


@given(graphs())
def test_settling_agrees_with_moving_one_task_at_a_time(
    graph: tuple[list[BlockedTask], dict[str, TaskStatus]],
) -> None:
    blocked, outside = graph
    known = outside | {task.task_id: S.BLOCKED for task in blocked}
    moved: dict[str, TaskEvent] = {}
    while step := next(
        (
            (task.task_id, event)
            for task in blocked
            if task.task_id not in moved and (event := alone(task, known))
        ),
        None,
    ):
        moved[step[0]] = step[1]
        known[step[0]] = AFTER[step[1]]
    assert settle(blocked, outside) == moved


def test_a_failure_falls_down_a_chain_and_stops_where_a_policy_says_so() -> None:
    chain = [
        BlockedTask("b", P.FAIL, ("a",)),
        BlockedTask("c", P.CANCEL, ("b",)),
        BlockedTask("d", P.FAIL, ("c",)),
        BlockedTask("e", P.CONTINUE, ("d",)),
        BlockedTask("f", P.WAIT, ("d",)),
        BlockedTask("g", P.FAIL, ("e",)),
    ]
    assert settle(chain, {"a": S.FAILED}) == {
        "b": E.DEPENDENCY_FAILED,
        "c": E.DEPENDENCY_CANCELLED,
        "d": E.DEPENDENCY_FAILED,
        "e": E.UNBLOCKED,
    }


def test_a_bad_end_is_told_without_waiting_for_the_others() -> None:
    states = {"a": S.FAILED, "b": S.RUNNING}
    for policy, event in [(P.FAIL, E.DEPENDENCY_FAILED), (P.CANCEL, E.DEPENDENCY_CANCELLED)]:
        assert settle([BlockedTask("t", policy, ("a", "b"))], states) == {"t": event}
    for policy in (P.WAIT, P.CONTINUE):
        assert settle([BlockedTask("t", policy, ("a", "b"))], states) == {}


def test_a_wide_and_deep_graph_is_linear() -> None:
    blocked = [BlockedTask("t0", P.FAIL, ("root",))]
    blocked += [BlockedTask(f"t{i}", P.FAIL, (f"t{i - 1}", "root")) for i in range(1, 20_000)]
    assert len(settle(blocked, {"root": S.FAILED})) == 20_000
