"""The graph families that ship."""

import math
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, model_validator

from p2ptrain.graphs import Edge, Graph, register

if TYPE_CHECKING:
    import networkx


class Sized(Graph):
    """A family with one graph per number of vertices."""

    n: int = Field(gt=1, le=10_000)


@register("ring")
class Ring(Sized):
    """Each vertex knows the one before and the one after."""

    def build(self) -> "networkx.Graph":
        return _networkx().cycle_graph(self.n)


@register("path")
class Path(Sized):
    """A line."""

    def build(self) -> "networkx.Graph":
        return _networkx().path_graph(self.n)


@register("star")
class Star(Sized):
    """Vertex 0 knows everyone; the others know only vertex 0."""

    def build(self) -> "networkx.Graph":
        return _networkx().star_graph(self.n - 1)


@register("complete")
class Complete(Sized):
    """Everyone knows everyone."""

    def build(self) -> "networkx.Graph":
        return _networkx().complete_graph(self.n)


@register("torus")
class Torus(Sized):
    """A grid whose sides meet, as close to square as n allows."""

    @model_validator(mode="after")
    def _not_prime(self) -> "Torus":
        if self._height() == 1:
            raise ValueError(f"{self.n} has no divisor to make a grid of; use ring")
        return self

    def build(self) -> "networkx.Graph":
        networkx = _networkx()
        grid = networkx.grid_2d_graph(self._height(), self.n // self._height(), periodic=True)
        return networkx.convert_node_labels_to_integers(grid, ordering="sorted")

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

    def build(self) -> "networkx.Graph":
        bits = range(self.n.bit_length() - 1)
        return _networkx().Graph([(i, i ^ (1 << bit)) for i in range(self.n) for bit in bits])


@register("exponential")
class Exponential(Sized):
    """Each vertex knows those 1, 2, 4, 8, ... further on."""

    def build(self) -> "networkx.Graph":
        hops = [1 << k for k in range((self.n - 1).bit_length())]
        return _networkx().Graph([(i, (i + hop) % self.n) for i in range(self.n) for hop in hops])


@register("edges")
class Edges(Graph):
    """The edges as given, in the order given."""

    model_config = ConfigDict(serialize_by_alias=True)

    edges_: tuple[Edge, ...] = Field(alias="edges", min_length=1)

    @model_validator(mode="after")
    def _connected(self) -> "Edges":
        graph = self.build()
        if sorted(graph.nodes) != list(range(len(graph))):
            raise ValueError(f"vertices must be 0..{len(graph) - 1}")
        if len(set(map(frozenset, self.edges_))) != len(self.edges_) or any(i == j for i, j in self.edges_):
            raise ValueError("an edge is given twice, or joins a vertex to itself")
        if not _networkx().is_connected(graph):
            raise ValueError("the graph is not connected")
        return self

    def model_post_init(self, context: Any) -> None:
        vars(self)["edges"] = list(self.edges_)

    def build(self) -> "networkx.Graph":
        return _networkx().Graph(list(self.edges_))


def _networkx() -> Any:
    """Imported when a graph is drawn up: 12 MB that a node without a graph does not need."""
    import networkx

    return networkx
