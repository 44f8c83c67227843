"""Families drawn by chance: what is random, what is not."""

import math

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain import graphs
from p2ptrain.graphs.drawn import Drawn
from p2ptrain.seeds import python_random

DRAWN = ["erdos-renyi", "geometric", "regular", "small-world"]
ON_EVERY_MACHINE = {
    "erdos-renyi": "02 03 04 05 07 12 13 15 16 17 23 24 25 26 27 34 56 57",
    "geometric": "04 06 12 14 15 17 24 25 27 34 35 36 46 47",
    "regular": "01 05 06 07 13 16 17 23 24 26 27 34 35 45 47 56",
    "small-world": "01 02 03 04 06 07 12 13 23 24 34 35 37 56 57 67",
}
"""With eight vertices, seed 0 and no options. A swarm's nodes each draw for themselves: another result is another
graph, and breaks it."""


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_options_give_the_same_graph_on_every_machine(name: str) -> None:
    assert " ".join(f"{i}{j}" for i, j in graphs.make(name, n=8).edges) == ON_EVERY_MACHINE[name]


@pytest.mark.parametrize("name", DRAWN)
def test_seeds_give_different_graphs(name: str) -> None:
    drawn = {tuple(graphs.make(name, n=16, seed=seed).edges) for seed in range(10)}
    assert len(drawn) == 10


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("erdos-renyi", {"p": 0.17}),
        ("geometric", {"radius": 0.35}),
        ("regular", {"degree": 2}),
        ("small-world", {"k": 2}),
    ],
)
def test_what_is_not_connected_is_drawn_again(name: str, options: dict[str, float]) -> None:
    again = 0
    for seed in range(20):
        graph = graphs.make(name, n=16, seed=seed, **options)
        assert isinstance(graph, Drawn)
        assert networkx.is_connected(networkx.Graph(graph.edges))
        first = graph.draw(python_random(seed, name, 0))
        again += not networkx.is_connected(first)
    assert 0 < again < 20


@given(n=st.integers(2, 40), seed=st.integers(0, 2**64))
@settings(deadline=None)
@pytest.mark.parametrize("name", DRAWN)
def test_any_number_of_vertices_will_do_without_options(name: str, n: int, seed: int) -> None:
    graph = graphs.make(name, n=n, seed=seed)
    assert sorted(networkx.Graph(graph.edges).nodes) == list(range(n))


@given(n=st.integers(3, 40), data=st.data())
@settings(deadline=None)
def test_regular_graphs_are_regular(n: int, data: st.DataObject) -> None:
    degree = data.draw(st.integers(3, n - 1).filter(lambda d: d * n % 2 == 0) if n > 3 else st.just(2))
    graph = graphs.make("regular", n=n, degree=degree)
    assert {len(graph.neighbours(slot)) for slot in range(n)} == {degree}


def test_geometric_graphs_join_who_is_near() -> None:
    graph = graphs.make("geometric", n=40, radius=0.3)
    places = graph.positions()
    near = [(i, j) for i in range(40) for j in range(i + 1, 40) if math.dist(places[i], places[j]) <= 0.3]
    assert graph.edges == near


def test_certain_edges_make_a_complete_graph() -> None:
    complete = graphs.make("complete", n=12).edges
    assert graphs.make("erdos-renyi", n=12, p=1).edges == complete
    assert graphs.make("geometric", n=12, radius=math.sqrt(2)).edges == complete
    assert graphs.make("regular", n=12, degree=11).edges == complete


def test_as_many_edges_as_p_says() -> None:
    counts = [len(graphs.make("erdos-renyi", n=40, p=0.3, seed=seed).edges) for seed in range(30)]
    assert sum(counts) / 30 == pytest.approx(0.3 * 40 * 39 / 2, rel=0.05)


def test_a_small_world_starts_as_a_ring_and_keeps_its_number_of_edges() -> None:
    ring = graphs.make("small-world", n=20, k=4, p=0)
    assert all(ring.neighbours(i) == sorted((i + hop) % 20 for hop in (-2, -1, 1, 2)) for i in range(20))
    for p in (0.2, 1):
        bent = graphs.make("small-world", n=20, k=4, p=p)
        assert len(bent.edges) == len(ring.edges)
        assert bent.chi1() < ring.chi1()
