"""Where the tasks of a run are drawn, as the API answers it. Lengths are CSS pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flakes.core import layout
from flakes.wire.codec import Frozen


class LayoutNode(Frozen, frozen=True, kw_only=True):
    """One task, or a bundle of alike ones; `x` and `y` are its upper left corner."""

    task_keys: list[str]
    layer: int
    x: float
    y: float


class LayoutEdge(Frozen, frozen=True, kw_only=True):
    """From what is depended on to the dependent, by index into `nodes`; `via` are the heights at which
    it crosses the layers in between. `spawned`: the source made the target, which does not depend on it."""

    source: int
    target: int
    via: list[float]
    spawned: bool = False


class Layout(Frozen, frozen=True, kw_only=True):
    """`bundled`: some nodes stand for many tasks."""

    nodes: list[LayoutNode]
    edges: list[LayoutEdge]
    width: float
    height: float
    node_width: float = layout.NODE_WIDTH
    node_height: float = layout.NODE_HEIGHT
    column: float = layout.COLUMN
    bundled: bool


def of(drawn: layout.Layout, depends_on: Mapping[str, Sequence[str]] | None = None) -> Layout:
    """A computed layout as the wire has it. Given what tasks depend on, other edges are told as spawned."""
    node_of = {key: number for number, node in enumerate(drawn.nodes) for key in node.keys}
    needed = None if depends_on is None else {
        (node_of.get(need), node_of[key]) for key, needs in depends_on.items() for need in needs
    }  # fmt: skip
    return Layout(
        nodes=[
            LayoutNode(task_keys=list(n.keys), layer=n.layer, x=n.x, y=round(n.y, 1)) for n in drawn.nodes
        ],
        edges=[
            LayoutEdge(source=e.source, target=e.target, via=[round(y, 1) for y in e.via],
                       spawned=needed is not None and (e.source, e.target) not in needed)
            for e in drawn.edges
        ],
        width=drawn.width,
        height=drawn.height,
        bundled=drawn.bundled,
    )
