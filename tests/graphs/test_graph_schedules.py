"""One peer per turn, and all of them over the turns."""

import numpy as np
import pytest

from p2ptrain import graphs
from p2ptrain.graphs.exponential import OnePeerExponential

SIZES = [2, 3, 6, 8, 16, 21]


def one_peer(n: int) -> OnePeerExponential:
    graph = graphs.make("one-peer-exponential", n=n)
    assert isinstance(graph, OnePeerExponential)
    return graph


def mixing(graph: OnePeerExponential, turn: int) -> np.ndarray:
    """Half of one's own, half of what one hears."""
    heard = [graph.partners(slot, turn)[1] for slot in range(graph.n)]
    return (np.eye(graph.n) + np.eye(graph.n)[heard]) / 2


@pytest.mark.parametrize("n", SIZES)
def test_all_turns_together_are_the_exponential_graph(n: int) -> None:
    graph = one_peer(n)
    used = {frozenset((slot, graph.partners(slot, turn)[0])) for turn in range(len(graph.hops)) for slot in range(n)}
    assert used == {frozenset(edge) for edge in graph.edges}
    assert graph.edges == graphs.make("exponential", n=n).edges


@pytest.mark.parametrize("n", SIZES)
def test_everyone_hears_from_who_sends_to_it(n: int) -> None:
    graph = one_peer(n)
    for turn in range(10):
        for slot in range(n):
            to, source = graph.partners(slot, turn)
            assert graph.partners(to, turn)[1] == slot == graph.partners(source, turn)[0]
            assert {to, source} <= set(graph.neighbours(slot))
            assert graph.partners(slot, turn + len(graph.hops)) == (to, source)


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_powers_of_two_have_the_exact_mean_after_one_cycle_from_any_turn_on(bits: int) -> None:
    graph = one_peer(1 << bits)
    for first in range(bits):
        product = np.linalg.multi_dot([np.eye(graph.n), *(mixing(graph, first + turn) for turn in range(bits))])
        assert np.allclose(product, 1 / graph.n, rtol=0, atol=1e-15)


@pytest.mark.parametrize("n", [3, 6, 21])
def test_other_sizes_come_close_to_the_mean(n: int) -> None:
    graph = one_peer(n)
    product = np.eye(n)
    errors = []
    for turn in range(10 * len(graph.hops)):
        product = mixing(graph, turn) @ product
        errors.append(np.abs(product - 1 / n).max())
    assert errors[len(graph.hops) - 1] > 1e-3
    assert errors[-1] < 1e-6
