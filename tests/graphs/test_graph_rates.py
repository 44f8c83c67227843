"""The rates that accelerated gossip needs, and the cheapest of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from p2ptrain import graphs
from p2ptrain.errors import ConfigError
from p2ptrain.graphs import Graph, rates


def product(graph: Graph, found: np.ndarray) -> float:
    return graph.chi1(found) * graph.chi2(found)


@pytest.mark.parametrize("n", [3, 8, 16, 64])
def test_uniform_rates_in_closed_form(n: int) -> None:
    """With a unit of rate shared by all edges, chi1 and chi2 are (n - 1) / 2 on a complete graph, n - 1 and (n - 1) / 2
    on a star; on a ring, chi2 is (n - 1) / 2."""
    ring = n / (2 - 2 * math.cos(2 * math.pi / n))
    for name, chi1 in (("complete", (n - 1) / 2), ("star", n - 1), ("ring", ring)):
        graph = graphs.make(name, n=n)
        shared = [1 / len(graph.edges)] * len(graph.edges)
        assert (graph.chi1(shared), graph.chi2(shared)) == pytest.approx((chi1, (n - 1) / 2), rel=1e-9)
        assert graph.uniform_rates().sum() == pytest.approx((2 * chi1 * (n - 1) / 2) ** 0.5)
        assert product(graph, graph.uniform_rates()) == pytest.approx(1 / 2)


@pytest.mark.parametrize(("name", "exchanges"), [("ring", 2.5), ("torus", 0.97), ("complete", 0.66), ("star", 0.94)])
def test_exchanges_for_each_gradient_of_sixteen_nodes(name: str, exchanges: float) -> None:
    graph = graphs.make(name, n=16)
    assert graph.uniform_rates().sum() / 16 == pytest.approx(exchanges, rel=0.02)


@pytest.mark.parametrize("name", ["ring", "torus", "hypercube", "complete", "star"])
def test_where_all_edges_are_alike_uniform_rates_are_optimal(name: str) -> None:
    graph = graphs.make(name, n=16)
    assert graph.optimal_rates() == pytest.approx(graph.uniform_rates(), rel=1e-3)
    assert graph.optimal_rates().sum() == pytest.approx(graph.uniform_rates().sum(), rel=1e-6)


def by_another_way(graph: Graph, cost: np.ndarray) -> float:
    """The least cost as a smooth-enough problem of few variables, for a solver that knows nothing of it."""

    def price(logarithms: np.ndarray) -> float:
        found = np.exp(logarithms)
        return math.log(cost @ found) + math.log(2 * product(graph, found)) / 2

    start = np.log(graph.uniform_rates())
    for _ in range(6):  # it stops where the maximum over the edges has a kink, and goes on when started again
        start = minimize(price, start, method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-9, "fatol": 1e-12}).x
    return math.exp(price(start))


@pytest.mark.parametrize(
    "edges",
    [
        [(0, 1), (1, 2), (2, 3)],
        [(0, 1), (1, 2), (2, 0), (2, 3)],
        [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)],
        [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (2, 3)],
    ],
)
def test_optimal_rates_are_what_another_solver_finds(edges: list[tuple[int, int]]) -> None:
    graph = graphs.make("edges", edges=edges)
    cost = np.linspace(1, 2, len(edges))
    found = graph.optimal_rates(cost)
    assert product(graph, found) == pytest.approx(1 / 2)
    assert cost @ found == pytest.approx(by_another_way(graph, cost), rel=2e-4)


@given(n=st.integers(2, 14), seed=st.integers(0, 1000), data=st.data())
@settings(deadline=None, derandomize=True, max_examples=25)
def test_optimal_rates_are_stable_and_no_dearer_than_any_others(n: int, seed: int, data: st.DataObject) -> None:
    graph = graphs.make("geometric", n=n, seed=seed)
    m = len(graph.edges)
    cost = np.array(data.draw(st.lists(st.floats(0.1, 10), min_size=m, max_size=m)))
    found = graph.optimal_rates(cost)
    assert product(graph, found) == pytest.approx(1 / 2)
    weights = np.array(data.draw(st.lists(st.floats(0.05, 1), min_size=m, max_size=m)))
    for other in (np.ones(m), weights):
        other = other * (2 * product(graph, other)) ** 0.5
        assert cost @ found <= cost @ other * (1 + 1e-5)


def test_on_a_geometric_graph_optimal_rates_save_much() -> None:
    graph = graphs.make("geometric", n=32)
    told: list[tuple[int, float, float]] = []
    found = graph.optimal_rates(progress=lambda *news: told.append(news))
    assert found.sum() < 0.4 * graph.uniform_rates().sum()
    assert [step for step, _, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][1] == pytest.approx(found.sum(), rel=1e-3)
    assert told[-1][2] < rates.TOLERANCE
    assert (found == 0).any(), "edges that are not worth it are left out"


def test_a_dear_edge_is_used_less() -> None:
    graph = graphs.make("complete", n=6)
    cost = [10.0 if edge == (0, 1) else 1.0 for edge in graph.edges]
    found = dict(zip(graph.edges, graph.optimal_rates(cost), strict=True))
    assert found[0, 1] < 0.2 * found[2, 3]


@pytest.mark.parametrize(
    ("cost", "reason"),
    [
        ([1.0] * 3, "one number for each of the 4 edges, not 3"),
        ([1, 1, 1, 0], "above zero"),
        ([1, 1, 1, math.nan], "above zero"),
        ([1, 1, 1, math.inf], "finite"),
    ],
)
def test_costs_that_cannot_be(cost: list[float], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        graphs.make("ring", n=4).optimal_rates(cost)


def test_graphs_that_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="4950 edges take too long; at most 3000, or use uniform"):
        graphs.make("complete", n=100).optimal_rates()
    monkeypatch.setattr(rates, "MAX_STEPS", 5)
    with pytest.raises(ConfigError, match="not there after 5 steps; use uniform"):
        graphs.make("geometric", n=16).optimal_rates()


def test_edges_without_a_rate_do_not_count() -> None:
    triangle = graphs.make("ring", n=3)
    path = graphs.make("path", n=3)
    assert triangle.edges == [(0, 1), (0, 2), (1, 2)]
    assert triangle.chi1([1, 0, 1]) == pytest.approx(path.chi1())
    assert triangle.chi2([1, 0, 1]) == pytest.approx(path.chi2())


def test_rates_that_leave_the_graph_in_parts_are_never_enough() -> None:
    graph = graphs.make("path", n=4)
    assert graph.chi1([1, 0, 1]) == graph.chi2([1, 0, 1]) == math.inf
    assert graph.chi1([0, 0, 0]) == graph.chi2([0, 0, 0]) == math.inf


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf])
def test_rates_that_cannot_be(wrong: float) -> None:
    with pytest.raises(ValueError, match="finite numbers, none below zero"):
        graphs.make("ring", n=3).laplacian([1, wrong, 1])
