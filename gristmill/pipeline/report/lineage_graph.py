"""The lineage as a drawing: boxes in layers from the sources to the release, arrows without crossing boxes.

A layered drawing after Sugiyama et al. (1981), the small way: a node's layer is its longest path from a source; an
edge over several layers runs through a lane in each layer between, one lane for all edges of the same origin; lanes
and boxes are ordered by the mean place of their neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BOX_WIDTH, BOX_HEIGHT, LANE, GAP_X, GAP_Y, MARGIN = 116, 62, 14, 23, 18, 4


@dataclass(frozen=True)
class Node:
    """What is drawn in a box; link: the section of the page that shows it."""

    key: str
    kind: str
    title: str
    detail: str
    tip: str = ""
    link: str = ""
    outside: bool = False


@dataclass(frozen=True)
class Box:
    node: Node
    x: float
    y: float


@dataclass(frozen=True)
class Graph:
    width: float
    height: float
    boxes: list[Box]
    edges: list[str]
    label: str
    box_width: int = BOX_WIDTH
    box_height: int = BOX_HEIGHT


def draw(nodes: Sequence[Node], edges: Sequence[tuple[str, str]]) -> Graph:
    """Lay out a graph without cycles; edges are (from, to) keys, those to unknown nodes are left out."""
    known = {n.key: n for n in nodes}
    edges = sorted({(a, b) for a, b in edges if a in known and b in known and a != b})
    layer = layers(list(known), edges)
    rows, links = _lanes(layer, edges)
    _order(rows, links)
    x = {depth: MARGIN + depth * (BOX_WIDTH + GAP_X) for depth in range(len(rows))}
    tall = [sum(_height(item, known) + GAP_Y for item in row) - GAP_Y for row in rows]
    total = max(tall, default=0)
    y: dict[str, float] = {}
    for row, height in zip(rows, tall, strict=True):
        top = MARGIN + (total - height) / 2
        for item in row:
            y[item] = top
            top += _height(item, known) + GAP_Y
    depth_of = {item: depth for depth, row in enumerate(rows) for item in row}
    paths = [_path(a, b, x[depth_of[a]], x[depth_of[b]], y, known) for a, b in links]
    lanes = [f"M{x[depth_of[item]]:.0f} {y[item] + LANE / 2:.0f}h{BOX_WIDTH}" for item in depth_of if item not in known]
    boxes = [Box(known[item], x[depth_of[item]], y[item]) for row in rows for item in row if item in known]
    label = "Lineage. " + "; ".join(f"{known[b].title} is made from {known[a].title}" for a, b in edges)
    return Graph(x[len(rows) - 1] + BOX_WIDTH + MARGIN if rows else 0, total + 2 * MARGIN, boxes, paths + lanes, label)


def layers(keys: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest path from a node without inputs; sources are moved next to what is made from them."""
    layer = dict.fromkeys(keys, 0)
    for _ in keys:
        for a, b in edges:
            layer[b] = max(layer[b], layer[a] + 1)
    for key in keys:
        after = [layer[b] for a, b in edges if a == key]
        if after and not any(b == key for _, b in edges):
            layer[key] = max(layer[key], min(after) - 1)
    return layer


def _lanes(layer: Mapping[str, int], edges: Sequence[tuple[str, str]]) -> tuple[list[list[str]], list[tuple[str, str]]]:
    """Rows of items by layer, and links between neighbouring layers; lanes are called `origin\\x00depth`."""
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for key, depth in layer.items():
        rows[depth].append(key)
    links: dict[tuple[str, str], None] = {}
    for a, b in edges:
        before = a
        for depth in range(layer[a] + 1, layer[b]):
            lane = f"{a}\x00{depth}"
            if lane not in rows[depth]:
                rows[depth].append(lane)
            links[before, lane] = None
            before = lane
        links[before, b] = None
    return rows, list(links)


def _order(rows: list[list[str]], links: Sequence[tuple[str, str]]) -> None:
    for sweep in range(6):
        forward = sweep % 2 == 0
        for depth in range(1, len(rows)) if forward else range(len(rows) - 2, -1, -1):
            beside = rows[depth - 1 if forward else depth + 1]
            place = {item: i / max(len(beside) - 1, 1) for i, item in enumerate(beside)}

            def mean(item: str, place: Mapping[str, float] = place, forward: bool = forward) -> float:
                near = [
                    place[a if forward else b]
                    for a, b in links
                    if (b if forward else a) == item and (a if forward else b) in place
                ]
                return sum(near) / len(near) if near else 0.5

            rows[depth].sort(key=mean)


def _height(item: str, known: Mapping[str, Node]) -> float:
    return BOX_HEIGHT if item in known else LANE


def _path(a: str, b: str, xa: float, xb: float, y: Mapping[str, float], known: Mapping[str, Node]) -> str:
    start, end = y[a] + _height(a, known) / 2, y[b] + _height(b, known) / 2
    left, tip = xa + BOX_WIDTH, xb - 1 if b in known else xb
    bend = (xb - left) / 2
    head = f"M{xb - 7:.0f} {end - 4:.0f}l6 4l-6 4" if b in known else ""
    curve = f"C{left + bend:.0f} {start:.0f} {xb - bend:.0f} {end:.0f} {tip:.0f} {end:.0f}"
    return f"M{left:.0f} {start:.0f}{curve}{head}"
