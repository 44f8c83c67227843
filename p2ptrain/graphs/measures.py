"""What a graph is good for: how fast gossip spreads on it, how far apart its vertices are, what holds it together."""

from collections.abc import Collection

import networkx
import numpy as np

from p2ptrain.graphs import Graph


def metropolis_weights(graph: Graph) -> np.ndarray:
    """(n, n), symmetric and doubly stochastic: 1 / (1 + the larger degree) per edge, the rest on the diagonal."""
    laplacian = graph.laplacian()
    degrees = laplacian.diagonal()
    weights = -np.minimum(laplacian, 0) / (1 + np.maximum.outer(degrees, degrees))
    return weights + np.diag(1 - weights.sum(1))


def lazy(weights: np.ndarray) -> np.ndarray:
    """(n, n): halfway between a mixing matrix and staying put, so that no eigenvalue is below zero."""
    return (weights + np.eye(len(weights))) / 2


def spectral_gap(graph: Graph) -> float:
    """1 - the second largest |eigenvalue| of the Metropolis weights, in [0, 1]: the part of the disagreement that is
    sure to go in a round in which everyone averages with all neighbours."""
    return float(1 - np.sort(np.abs(np.linalg.eigvalsh(metropolis_weights(graph))))[-2])


def diameter(graph: Graph) -> int:
    """How many hops news needs at most."""
    return networkx.diameter(networkx.Graph(graph.edges), usebounds=True)


def components(graph: Graph, without: Collection[int] = ()) -> list[list[int]]:
    """The parts, in order of their first vertex, into which the graph falls when the vertices `without` are gone."""
    rest = networkx.Graph(graph.edges)
    rest.remove_nodes_from(without)
    return sorted(sorted(part) for part in networkx.connected_components(rest))
