"""The families that leave nothing to chance."""

import math

import networkx
from pydantic import Field, model_validator

from p2ptrain.graphs import MAX_VERTICES, Point, Sized, layouts, register


@register("ring")
class Ring(Sized):
    """Each vertex knows the one before and the one after."""

    def build(self) -> networkx.Graph:
        return networkx.cycle_graph(self.n)

    def positions(self) -> list[Point]:
        return layouts.circle(self.n)


@register("path")
class Path(Sized):
    """A line."""

    def build(self) -> networkx.Graph:
        return networkx.path_graph(self.n)

    def positions(self) -> list[Point]:
        return layouts.circle(self.n)  # a ring with a gap: a straight line would have no room for many


@register("star")
class Star(Sized):
    """Vertex 0 knows everyone; the others know only vertex 0."""

    def build(self) -> networkx.Graph:
        return networkx.star_graph(self.n - 1)

    def positions(self) -> list[Point]:
        return [(0.5, 0.5), *layouts.circle(self.n - 1)]


@register("complete")
class Complete(Sized):
    """Everyone knows everyone."""

    def build(self) -> networkx.Graph:
        return networkx.complete_graph(self.n)

    def positions(self) -> list[Point]:
        return layouts.circle(self.n)


@register("torus")
class Torus(Sized):
    """A grid whose sides meet, as close to square as n allows."""

    @model_validator(mode="after")
    def _not_prime(self) -> "Torus":
        if self._height() == 1:
            raise ValueError(f"{self.n} has no divisor to make a grid of; use ring")
        return self

    def build(self) -> networkx.Graph:
        grid = networkx.grid_2d_graph(self._height(), self.n // self._height(), periodic=True)
        return networkx.convert_node_labels_to_integers(grid, ordering="sorted")

    def positions(self) -> list[Point]:
        return layouts.grid(self._height(), self.n // self._height())

    def _height(self) -> int:
        return max(k for k in range(1, math.isqrt(self.n) + 1) if self.n % k == 0)


@register("hypercube")
class Hypercube(Sized):
    """Vertices know those that differ in one bit; n is a power of two."""

    @model_validator(mode="after")
    def _power_of_two(self) -> "Hypercube":
        if self.n & (self.n - 1):
            raise ValueError(f"{self.n} is not a power of two")
        return self

    def build(self) -> networkx.Graph:
        bits = range(self.n.bit_length() - 1)
        return networkx.Graph([(i, i ^ (1 << bit)) for i in range(self.n) for bit in bits])


@register("barbell")
class Barbell(Sized):
    """Two halves in which everyone knows everyone, with one edge between them, or one vertex if n is odd: what
    gossip finds hardest."""

    n: int = Field(gt=3, le=MAX_VERTICES)

    def build(self) -> networkx.Graph:
        return networkx.barbell_graph(self.n // 2, self.n % 2)

    def positions(self) -> list[Point]:
        bell = layouts.circle(self.n // 2)
        left = [(0.4 * y, 0.3 + 0.4 * x) for x, y in reversed(bell)]
        right = [(1 - 0.4 * y, 0.3 + 0.4 * x) for x, y in bell]
        return left + [(0.5, 0.5)] * (self.n % 2) + right
