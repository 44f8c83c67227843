"""The swarm as a picture: who talks to whom, how much, and who stands where."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import yaml

from node.report.charts import NUM_COLOURS
from node.units import clean
from p2ptrain import graphs
from p2ptrain.graphs import Edge, Point
from p2ptrain.telemetry.state import NodeState

MAX_NODES, MAX_NAMED, MAX_EDGES = 400, 40, 4000
WIDTH = 560
MARGIN = 36

Pairs = Mapping[Edge, int]


@dataclass(frozen=True)
class Plan:
    """What the topology file says of each slot."""

    graph: graphs.Graph | None = None
    sites: Sequence[str] = ()
    devices: Sequence[str] = ()


def plan(topology: str) -> Plan:
    """From the file as resolved; without one, or from something else, nothing is known."""
    # Not through `Topology`: that needs torch, and the task of the run, which may be a file on another machine.
    body = yaml.safe_load(topology) if topology else None
    if not isinstance(body, dict) or not isinstance(body.get("nodes"), list):
        return Plan()
    groups: list[dict[str, Any]] = [group for group in body["nodes"] for _ in range(group["count"])]
    graph = graphs.parse(body["graph"]) if body["graph"] else None
    return Plan(graph, [group["site"] for group in groups], [group["device"] for group in groups])


def draw(nodes: Sequence[NodeState], plan: Plan) -> str | None:
    """Lines as thick as exchanges were many; the edges of the graph that saw none are dashed. None when there is
    nothing to see, or too much."""
    weights = _exchanges(nodes)
    graph = plan.graph if plan.graph and plan.graph.num_nodes == len(nodes) else None
    edges = [*weights, *(edge for edge in (graph.edges if graph else ()) if edge not in weights)]
    if not edges or not 2 <= len(nodes) <= MAX_NODES or len(edges) > MAX_EDGES:
        return None
    points = graph.positions() if graph else _circle(len(nodes))
    height = 300 if len(nodes) <= 16 else WIDTH
    side = height - 2 * MARGIN
    places = [((WIDTH - side) / 2 + side * x, MARGIN + side * (1 - y)) for x, y in points]
    groups, key = _groups(plan, len(nodes))
    title = f"Graph: {graph.name}" if graph else "Exchanges between nodes"
    body = [_edge(nodes, edge, weights.get(edge, 0), max(weights.values(), default=1), places) for edge in edges]
    body += [
        _vertex(node, place, height / 2, groups[i], len(nodes))
        for i, (node, place) in enumerate(zip(nodes, places, strict=True))
    ]
    return (
        f'<figure class="card"><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(body)}</svg>{key}</figure>'
    )


def _exchanges(nodes: Sequence[NodeState]) -> dict[Edge, int]:
    """How many between each two, the fewest first so that the most lie on top."""
    index_of = {node.peer: index for index, node in enumerate(nodes) if node.peer}
    counts: dict[Edge, int] = {}
    for index, node in enumerate(nodes):
        for peer, count in node.partners.items():
            other = index_of.get(peer, index)
            edge = (min(index, other), max(index, other))
            if other != index:  # either end tells of an exchange; one of them may have died before it could
                counts[edge] = max(counts.get(edge, 0), count)
    return dict(sorted(counts.items(), key=lambda item: item[1]))


def _circle(n: int) -> list[Point]:
    angles = [2 * math.pi * index / n for index in range(n)]
    return [(0.5 + 0.5 * math.sin(angle), 0.5 + 0.5 * math.cos(angle)) for angle in angles]


def _groups(plan: Plan, num_nodes: int) -> tuple[list[int], str]:
    """(each node's colour, what the colours mean): by site where there are several, else by device."""
    several = [words for words in (plan.sites, plan.devices) if len(words) == num_nodes and len(set(words)) > 1]
    if not several:
        return [0] * num_nodes, ""
    names = list(dict.fromkeys(several[0]))
    items = "".join(f'<span><i class="c{i % NUM_COLOURS}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    return [names.index(word) for word in several[0]], f'<div class="key">{items}</div>'


def _edge(nodes: Sequence[NodeState], edge: Edge, count: int, most: int, places: Sequence[Point]) -> str:
    (x1, y1), (x2, y2) = places[edge[0]], places[edge[1]]
    width, opacity = 0.8 + 5 * count / most, 0.2 + 0.55 * count / most
    look = f'stroke-width="{width:.1f}" opacity="{opacity:.2f}"' if count else 'stroke-dasharray="3 4" opacity="0.6"'
    title = f"{nodes[edge[0]].name} and {nodes[edge[1]].name}: {count} exchanges"
    line = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="link" {line} {look}><title>{escape(title)}</title></line>'


def _vertex(node: NodeState, place: Point, middle: float, group: int, num_nodes: int) -> str:
    (x, y), radius = place, 7 if num_nodes <= MAX_NAMED else 3.5
    state = "" if node.alive else " dead"
    title = f"{node.name}: {node.phase}, {node.step} steps, {node.exchanges} exchanges"
    dot = f'<circle class="dot c{group % NUM_COLOURS}{state}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
    dot += f"<title>{escape(title)}</title></circle>"
    if num_nodes > MAX_NAMED:
        return dot
    angle = math.atan2(y - middle, x - WIDTH / 2) if math.hypot(y - middle, x - WIDTH / 2) > 1 else math.pi / 2
    side = "middle" if abs(math.cos(angle)) < 0.3 else "start" if math.cos(angle) > 0 else "end"
    at = f'x="{x + 14 * math.cos(angle):.1f}" y="{y + 16 * math.sin(angle):.1f}"'
    return dot + f'<text class="tick {side}" {at} dy=".32em">{escape(clean(node.name))}</text>'
