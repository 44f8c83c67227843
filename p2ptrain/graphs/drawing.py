"""A graph as text: a picture in Braille dots, and below it who knows whom."""

from collections.abc import Sequence

import numpy as np

from p2ptrain.graphs import Graph

MAX_VERTICES_DRAWN = 64
MAX_EDGES_DRAWN = 150
INDENT = " " * 6
BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""Of the 4 x 2 dots of a Braille character."""


def draw(graph: Graph, names: Sequence[str]) -> str:
    """One line per vertex with its slot, its name (`names` has one for each) and the slots of its neighbours; above
    them a picture, unless it would be a blot."""
    width = max(map(len, names))
    table = [f"{slot:>4}  {name:<{width}}  {spans(graph.neighbours(slot))}" for slot, name in enumerate(names)]
    if graph.num_nodes > MAX_VERTICES_DRAWN or len(graph.edges) > MAX_EDGES_DRAWN:
        return "\n".join(table)
    return "\n".join([picture(graph), "", *table])


def picture(graph: Graph) -> str:
    """Edges as lines, twice as many characters wide as high; a vertex's slot stands where the vertex is."""
    rows = 9 if graph.num_nodes <= 8 else 15 if graph.num_nodes <= 24 else 25
    dots = 4 * rows  # down and across: they are as far apart either way
    canvas = np.zeros((dots, dots), bool)
    places = [(round((1 - y) * (dots - 2)), round(x * (dots - 2))) for x, y in graph.positions()]
    for i, j in graph.edges:
        down, across = np.linspace(places[i], places[j], dots).round().astype(int).T
        canvas[down, across] = True
    cells = (canvas.reshape(rows, 4, 2 * rows, 2) * BITS[:, None]).sum((1, 3))
    lines = [[chr(0x2800 + cell) if cell else " " for cell in row] + [" "] for row in cells]
    for slot, (down, across) in enumerate(places):
        for offset, digit in enumerate(str(slot)):
            lines[down // 4][across // 2 + offset] = digit
    return "\n".join((INDENT + "".join(line)).rstrip() for line in lines).strip("\n")


def spans(slots: Sequence[int]) -> str:
    """Ascending numbers in few words: `0-3, 5, 6`."""
    runs: list[list[int]] = []
    for slot in slots:
        if runs and slot == runs[-1][-1] + 1:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
