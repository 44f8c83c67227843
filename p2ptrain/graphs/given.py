"""A graph spelt out edge by edge."""

from typing import Any

import networkx
from pydantic import ConfigDict, Field, model_validator

from p2ptrain.graphs import Edge, Graph, register


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
        if not networkx.is_connected(graph):
            raise ValueError("the graph is not connected")
        return self

    def model_post_init(self, context: Any) -> None:
        vars(self)["edges"] = list(self.edges_)

    def build(self) -> networkx.Graph:
        return networkx.Graph(list(self.edges_))
