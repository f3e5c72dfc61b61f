"""The layered layout of a graph: everything is there once, left of what depends on it, and apart from the rest."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flakes.core.layout import (
    BUNDLE_MIN,
    COLUMN,
    NODE_HEIGHT,
    NODE_WIDTH,
    NODES_MAX,
    Layout,
    Node,
    layout,
)  # fmt: skip

Graph = dict[str, list[str]]


@st.composite
def graphs(draw: st.DrawFn, most: int = BUNDLE_MIN) -> Graph:
    """Acyclic: a task depends on earlier ones alone; the order of the keys says nothing about that."""
    count = draw(st.integers(0, most))
    names = draw(st.permutations([f"t{n}" for n in range(count)]))
    return {
        name: draw(st.lists(st.sampled_from(names[:n]), max_size=4, unique=True)) if n else []
        for n, name in enumerate(names)
    }


def apart(a: Node, b: Node) -> bool:
    return abs(a.x - b.x) >= NODE_WIDTH - 1e-6 or abs(a.y - b.y) >= NODE_HEIGHT - 1e-6


def check(graph: Graph, made: Layout) -> None:
    keys = [key for node in made.nodes for key in node.keys]
    assert sorted(keys) == sorted(graph), "every task is in one node"
    place = {key: n for n, node in enumerate(made.nodes) for key in node.keys}
    wanted = {(place[need], place[key]) for key, needs in graph.items() for need in needs} - {
        (n, n) for n in range(len(made.nodes))
    }
    assert {(edge.source, edge.target) for edge in made.edges} == wanted, (
        "every dependency is an edge, and nothing else"
    )
    for edge in made.edges:
        source, target = made.nodes[edge.source], made.nodes[edge.target]
        assert source.layer < target.layer
        assert len(edge.via) == target.layer - source.layer - 1, "a place in every layer between"
    for node in made.nodes:
        assert node.x == node.layer * COLUMN
        assert node.x >= 0
        assert node.y >= -1e-6
        assert node.x + NODE_WIDTH <= made.width + 1e-6
        assert node.y + NODE_HEIGHT <= made.height + 1e-6
    if len(made.nodes) <= 60:
        assert all(apart(a, b) for a, b in combinations(made.nodes, 2))


@given(graphs())
@settings(max_examples=40, deadline=None)
def test_any_graph(graph: Graph) -> None:
    made = layout(graph)
    check(graph, made)
    assert not made.bundled
    assert layout(graph) == made, "a function of the graph alone"


def test_nothing_is_laid_out() -> None:
    made = layout({})
    assert (made.nodes, made.edges) == ((), ())


def test_a_chain_is_a_line() -> None:
    made = layout({"c": ["b"], "b": ["a"], "a": []})
    assert len({node.y for node in made.nodes}) == 1
    assert [node.keys[0] for node in sorted(made.nodes, key=lambda n: n.x)] == ["a", "b", "c"]


def test_one_crossing_that_can_be_avoided_is() -> None:
    made = layout({"a": [], "b": [], "x": ["b"], "y": ["a"]})
    at = {node.keys[0]: node.y for node in made.nodes}
    assert (at["a"] < at["b"]) == (at["y"] < at["x"])


def test_alike_tasks_are_bundled_when_there_are_many() -> None:
    few = {"first": [], **{f"p{n}": ["first"] for n in range(BUNDLE_MIN)}}
    assert not layout(few).bundled
    many = few | {f"q{n}": ["first"] for n in range(2)}
    made = layout(many)
    assert made.bundled
    check(many, made)
    assert sorted(len(node.keys) for node in made.nodes) == [1, BUNDLE_MIN + 2]


@pytest.mark.parametrize("shape", ["wide", "deep", "tangled"])
def test_ten_thousand_tasks_are_drawn_as_few_nodes(shape: str) -> None:
    count = 10_000
    graph: Graph = {
        "wide": {f"t{n}": [] for n in range(count)},
        "deep": {f"t{n}": [f"t{n - 1}"] if n else [] for n in range(count)},
        "tangled": {
            f"t{n}": sorted({f"t{n * 5 // 7}", f"t{n // 3}"} - {f"t{n}"}) for n in range(count)
        },
    }[shape]
    made = layout(graph)
    assert sum(len(node.keys) for node in made.nodes) == count
    assert shape == "deep" or len(made.nodes) <= NODES_MAX
    assert all(made.nodes[e.source].layer < made.nodes[e.target].layer for e in made.edges)
