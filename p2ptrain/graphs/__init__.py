"""Who talks to whom: `graphs.make("ring", n=8)` has `.edges`, `.laplacian(rates)`, `.chi1(rates)`, `.chi2(rates)`.

Vertices are the nodes' slots. Each family is one class in this folder.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from p2ptrain.registry import Component, Registry

if TYPE_CHECKING:
    import networkx

Edge = tuple[int, int]


class Graph(Component):
    """An undirected, connected graph. `rates` are exchanges per unit time, one per edge in the order of `edges`;
    default 1 each."""

    def build(self) -> "networkx.Graph":
        """The graph on vertices 0..n-1."""
        raise NotImplementedError

    @cached_property
    def edges(self) -> list[Edge]:
        return sorted((min(i, j), max(i, j)) for i, j in self.build().edges)

    @cached_property
    def num_nodes(self) -> int:
        return self.build().number_of_nodes()

    def neighbours(self, slot: int) -> list[int]:
        """Empty for a slot that the graph does not have."""
        return sorted(j if i == slot else i for i, j in self.edges if slot in (i, j))

    def laplacian(self, rates: Sequence[float] | None = None) -> np.ndarray:
        """(n, n): sum over edges of rate * (e_i - e_j)(e_i - e_j)^T."""
        matrix = np.zeros((self.num_nodes, self.num_nodes))
        for (i, j), rate in zip(self.edges, rates or [1.0] * len(self.edges), strict=True):
            matrix[[i, j], [i, j]] += rate
            matrix[[i, j], [j, i]] -= rate
        return matrix

    def chi1(self, rates: Sequence[float] | None = None) -> float:
        """1 / the Laplacian's second smallest eigenvalue: the time that averaging takes along the worst direction."""
        return float(1 / np.linalg.eigvalsh(self.laplacian(rates))[1])

    def chi2(self, rates: Sequence[float] | None = None) -> float:
        """Half of the largest effective resistance of an edge."""
        inverse = np.linalg.pinv(self.laplacian(rates), hermitian=True)
        return max(float(inverse[i, i] + inverse[j, j] - 2 * inverse[i, j]) for i, j in self.edges) / 2


registry: Registry[Graph] = Registry("graph", __name__)
register, make, names, get = registry.register, registry.make, registry.names, registry.get


def parse(value: Any) -> Any:
    """As `Registry.parse`; a graph's name is written `kind`, as in `{kind: ring, n: 8}`."""
    if isinstance(value, dict) and "kind" in value:
        value = {"name": value["kind"], **{key: option for key, option in value.items() if key != "kind"}}
    return registry.parse(value)
