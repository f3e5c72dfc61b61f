"""Where the tasks of a run are drawn: a layered layout of the dependency graph, from left to right.

A function of the graph alone, so a layout holds for as long as no task is added. The steps are those of
Sugiyama, Tagawa and Toda (1981): rank by the longest path, give long edges a place in every layer they
cross, order the layers by barycentres, and set heights by the least squares that keep the order (isotonic
regression). Linear in nodes plus edges but for sorting.

Big groups are drawn as one node: tasks that depend on the same tasks, and on which the same tasks depend,
are a *bundle* once there are more of them than `BUNDLE_MIN`; in a graph that would still have more than
`NODES_MAX` nodes every such group is one, and at last every layer.

Lengths are CSS pixels; a node's place is its upper left corner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

NODE_WIDTH: Final = 184.0
NODE_HEIGHT: Final = 36.0
COLUMN: Final = 256.0
ROW: Final = 50.0
CROSSING: Final = 22.0
"""Height that an edge takes where it crosses a layer."""
NODES_MAX: Final = 300
BUNDLE_MIN: Final = 24
CROSSINGS_MAX: Final = 3_000
SWEEPS: Final = 8


@dataclass(frozen=True, slots=True)
class Node:
    """One task, or a bundle of them."""

    keys: tuple[str, ...]
    layer: int
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Edge:
    """From what is depended on to the dependent, by index into the nodes; `via` are the heights at which
    it crosses the layers in between."""

    source: int
    target: int
    via: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    width: float
    height: float
    bundled: bool


def layout(depends_on: Mapping[str, Iterable[str]], *, nodes_max: int = NODES_MAX) -> Layout:
    """Lay out tasks by key. Keys that are depended on and not there are left out; cycles are cut."""
    known = {key: [d for d in dict.fromkeys(needs) if d in depends_on] for key, needs in depends_on.items()}
    ranks = _ranks(known)
    groups = _groups(known, ranks, nodes_max)
    index = {key: number for number, keys in enumerate(groups) for key in keys}
    layer_of = [ranks[keys[0]] for keys in groups]
    pairs = sorted({
        (index[need], index[key])
        for key, needs in known.items()
        for need in needs
        if layer_of[index[need]] < layer_of[index[key]]
    })  # fmt: skip
    placed = _Drawing(layer_of, pairs)
    heights = placed.heights()
    nodes = tuple(
        Node(tuple(keys), layer_of[n], layer_of[n] * COLUMN, heights[n])
        for n, keys in enumerate(groups)
    )
    edges = tuple(
        Edge(source, target, tuple(heights[d] for d in placed.chains[source, target]))
        for source, target in pairs
    )
    width = max(layer_of, default=0) * COLUMN + NODE_WIDTH
    height = max([node.y + NODE_HEIGHT for node in nodes] + heights[len(nodes) :], default=0.0)
    return Layout(nodes, edges, width, height, len(groups) < len(known))


def _ranks(known: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The length of the longest path to each key. What lies on a cycle counts as at the beginning."""
    missing = {key: len(needs) for key, needs in known.items()}
    dependents: dict[str, list[str]] = {key: [] for key in known}
    for key, needs in known.items():
        for need in needs:
            dependents[need].append(key)
    ranks = dict.fromkeys(known, 0)
    queue = [key for key, count in missing.items() if count == 0]
    for key in queue:
        for dependent in dependents[key]:
            ranks[dependent] = max(ranks[dependent], ranks[key] + 1)
            missing[dependent] -= 1
            if missing[dependent] == 0:
                queue.append(dependent)
    return ranks


def _groups(
    known: Mapping[str, Sequence[str]], ranks: Mapping[str, int], nodes_max: int
) -> list[list[str]]:
    dependents: dict[str, list[str]] = {key: [] for key in known}
    for key, needs in known.items():
        for need in needs:
            dependents[need].append(key)
    alike: dict[tuple[frozenset[str], frozenset[str]], list[str]] = {}
    for key, needs in known.items():
        alike.setdefault((frozenset(needs), frozenset(dependents[key])), []).append(key)
    least = BUNDLE_MIN if len(known) <= nodes_max else 1
    groups: list[list[str]] = []
    for keys in alike.values():
        groups += [keys] if len(keys) > least else [[key] for key in keys]
    if len(groups) <= nodes_max:
        return groups
    layers: dict[int, list[str]] = {}
    for key in known:
        layers.setdefault(ranks[key], []).append(key)
    return list(layers.values())


class _Drawing:
    """The nodes and, after them, the crossings of long edges, in their layers."""

    def __init__(self, layer_of: Sequence[int], pairs: Sequence[tuple[int, int]]) -> None:
        self.layer_of = list(layer_of)
        self.real = len(layer_of)
        self.chains: dict[tuple[int, int], list[int]] = {}
        self.left: list[list[int]] = [[] for _ in layer_of]
        self.right: list[list[int]] = [[] for _ in layer_of]
        crossings = sum(layer_of[target] - layer_of[source] - 1 for source, target in pairs)
        for source, target in pairs:
            chain = self._chain(source, target) if crossings <= CROSSINGS_MAX else []
            self.chains[source, target] = chain
            for a, b in zip([source, *chain], [*chain, target], strict=True):
                self.right[a].append(b)
                self.left[b].append(a)
        self.layers: list[list[int]] = [[] for _ in range(max(self.layer_of, default=-1) + 1)]
        for number, layer in enumerate(self.layer_of):
            self.layers[layer].append(number)

    def _chain(self, source: int, target: int) -> list[int]:
        chain: list[int] = []
        for layer in range(self.layer_of[source] + 1, self.layer_of[target]):
            chain.append(len(self.layer_of))
            self.layer_of.append(layer)
            self.left.append([])
            self.right.append([])
        return chain

    def heights(self) -> list[float]:
        """The upper edge of each node, and the middle of each crossing."""
        place = [0.0] * len(self.layer_of)
        for layer in self.layers:
            for rank, number in enumerate(layer):
                place[number] = float(rank)
        for sweep in range(SWEEPS):
            forward = sweep % 2 == 0
            for layer in self.layers if forward else reversed(self.layers):
                self._order(layer, self.left if forward else self.right, place)
        for layer in self.layers:
            self._spread(layer, {n: place[n] * ROW for n in layer}, place)
        for sweep in range(SWEEPS):
            forward = sweep % 2 == 0
            for layer in self.layers if forward else reversed(self.layers):
                wanted = {n: self._middle(n, forward, place) for n in layer}
                self._spread(layer, wanted, place)
        top = min((place[n] - self._half(n) for n in range(len(place))), default=0.0)
        return [
            y - top - (NODE_HEIGHT / 2 if n < self.real else 0.0) + (ROW - NODE_HEIGHT) / -2
            for n, y in enumerate(place)
        ]

    def _order(self, layer: list[int], beside: Sequence[Sequence[int]], place: list[float]) -> None:
        def centre(number: int) -> float:
            near = beside[number]
            return sum(place[n] for n in near) / len(near) if near else place[number]

        layer.sort(key=centre)
        for rank, number in enumerate(layer):
            place[number] = float(rank)

    def _middle(self, number: int, forward: bool, place: Sequence[float]) -> float:
        near = (self.left if forward else self.right)[number] or self.left[number] + self.right[number]
        return sum(place[n] for n in near) / len(near) if near else place[number]

    def _half(self, number: int) -> float:
        return (ROW if number < self.real else CROSSING) / 2

    def _spread(
        self, layer: Sequence[int], wanted: Mapping[int, float], place: list[float]
    ) -> None:
        """The heights nearest to the wanted ones at which nothing in the layer overlaps."""
        blocks: list[tuple[float, int]] = []  # (sum of wishes, count) of members with one common shift
        offsets: list[float] = []
        offset = 0.0
        for position, number in enumerate(layer):
            if position:
                offset += self._half(layer[position - 1]) + self._half(number)
            offsets.append(offset)
            total, count = wanted[number] - offset, 1
            while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
                before, size = blocks.pop()
                total, count = total + before, count + size
            blocks.append((total, count))
        position = 0
        for total, count in blocks:
            for _ in range(count):
                place[layer[position]] = total / count + offsets[position]
                position += 1
