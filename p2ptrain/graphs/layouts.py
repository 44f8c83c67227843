"""Places for vertices in the unit square, y upwards."""

import math

import networkx

from p2ptrain.graphs import Edge, Point


def circle(n: int) -> list[Point]:
    """Clockwise from the top."""
    angles = [2 * math.pi * i / n for i in range(n)]
    return [(0.5 + 0.5 * math.sin(angle), 0.5 + 0.5 * math.cos(angle)) for angle in angles]


def grid(height: int, width: int) -> list[Point]:
    """Row by row from the top left; both sides at least 2."""
    return [(column / (width - 1), 1 - row / (height - 1)) for row in range(height) for column in range(width)]


def spring(edges: list[Edge]) -> list[Point]:
    """Edges pull, vertices push (Fruchterman and Reingold 1991)."""
    places = networkx.spring_layout(networkx.Graph(edges), seed=0)
    return [(float(0.5 + 0.5 * x), float(0.5 + 0.5 * y)) for _, (x, y) in sorted(places.items())]
