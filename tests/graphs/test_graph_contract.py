"""What every graph promises, shipped or not."""

import math

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain import graphs
from p2ptrain.errors import ConfigError
from p2ptrain.graphs import MAX_VERTICES, Graph, Sized
from p2ptrain.graphs.measures import components, diameter, metropolis_weights, spectral_gap

SIZES = [4, 8, 16, 64]
GIVEN = graphs.make("edges", edges=[(4, 1), (0, 1), (3, 4), (2, 0), (1, 2)])
GRAPHS = [
    GIVEN,
    *(graphs.make(name, n=n) for name in graphs.names() if issubclass(graphs.get(name), Sized) for n in SIZES),
]


@pytest.fixture(params=GRAPHS, ids=lambda graph: f"{graph.name}-{graph.num_nodes}")
def graph(request: pytest.FixtureRequest) -> Graph:
    return request.param


def test_the_families_that_people_and_files_name_are_there() -> None:
    assert set(graphs.names()) >= {
        "ring", "torus", "hypercube", "complete", "star", "path", "exponential", "one-peer-exponential", "geometric",
        "regular", "erdos-renyi", "small-world", "barbell", "edges",
    }  # fmt: skip


def test_vertices_are_numbered_from_zero_and_connected(graph: Graph) -> None:
    seen = networkx.Graph(graph.edges)
    assert sorted(seen.nodes) == list(range(graph.num_nodes))
    assert networkx.is_connected(seen)
    assert components(graph) == [list(range(graph.num_nodes))]
    if isinstance(graph, Sized):
        assert graph.num_nodes == graph.n


def test_edges_are_sorted_and_unique(graph: Graph) -> None:
    assert len({frozenset(edge) for edge in graph.edges}) == len(graph.edges)
    assert all(i != j for i, j in graph.edges)
    if graph is not GIVEN:
        assert graph.edges == sorted(graph.edges)
        assert all(i < j for i, j in graph.edges)


def test_neighbours_are_the_ends_of_edges(graph: Graph) -> None:
    seen = networkx.Graph(graph.edges)
    for slot in range(graph.num_nodes):
        assert graph.neighbours(slot) == sorted(seen.neighbors(slot))
    assert graph.neighbours(graph.num_nodes) == []


def test_the_laplacian_is_symmetric_with_zero_rows(graph: Graph) -> None:
    rates = np.linspace(0.5, 2, len(graph.edges))
    laplacian = graph.laplacian(rates)
    assert laplacian.shape == (graph.num_nodes, graph.num_nodes)
    assert np.array_equal(laplacian, laplacian.T)
    assert np.allclose(laplacian.sum(1), 0, atol=1e-12)
    assert all(laplacian[i, j] == -rate for (i, j), rate in zip(graph.edges, rates, strict=True))
    assert np.array_equal(graph.laplacian(), graph.laplacian([1.0] * len(graph.edges)))
    for wrong in (1, len(graph.edges) + 1):
        with pytest.raises(ValueError, match="reshape"):
            graph.laplacian([1.0] * wrong)


def test_chi1_is_at_least_chi2_and_both_scale_as_time(graph: Graph) -> None:
    assert graph.chi1() * (1 + 1e-9) >= graph.chi2() > 0
    doubled = [2.0] * len(graph.edges)
    assert graph.chi1(doubled) == pytest.approx(graph.chi1() / 2)
    assert graph.chi2(doubled) == pytest.approx(graph.chi2() / 2)


def test_chi2_is_no_better_than_the_number_of_edges_allows(graph: Graph) -> None:
    """Foster: rates times resistances sum to n - 1."""
    assert graph.chi2() >= (graph.num_nodes - 1) / (2 * len(graph.edges)) * (1 - 1e-9)


def test_metropolis_weights_average(graph: Graph) -> None:
    weights = metropolis_weights(graph)
    assert np.array_equal(weights, weights.T)
    assert np.allclose(weights.sum(1), 1)
    assert weights.min() >= 0
    assert 0 < spectral_gap(graph) <= 1 + 1e-12
    vector = np.arange(graph.num_nodes) - (graph.num_nodes - 1) / 2
    bound = (1 - spectral_gap(graph)) * np.linalg.norm(vector)
    assert np.linalg.norm(weights @ vector) <= bound + 1e-9


def test_diameter_is_the_longest_shortest_path(graph: Graph) -> None:
    lengths = dict(networkx.all_pairs_shortest_path_length(networkx.Graph(graph.edges)))
    assert diameter(graph) == max(max(others.values()) for others in lengths.values())


def test_positions_are_apart_in_the_unit_square_and_the_same_each_time(graph: Graph) -> None:
    places = graph.positions()
    assert places == graph.positions()
    assert len(places) == graph.num_nodes
    assert all(-1e-9 <= coordinate <= 1 + 1e-9 for place in places for coordinate in place)
    assert min(math.dist(a, b) for a in places for b in places if a is not b) > 1e-3


def test_a_graph_is_its_own_configuration(graph: Graph) -> None:
    dumped = graph.model_dump(mode="json")
    again = graphs.parse(dumped)
    assert again == graph
    assert again.edges == graph.edges
    kind = {("kind" if key == "name" else key): value for key, value in dumped.items()}
    assert graphs.parse(kind) == graph


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("wheel", {"n": 8}, "unknown graph 'wheel'; choose one of barbell"),
        ("ring", {}, "n: is missing"),
        ("ring", {"n": 1}, "n: .*greater than 1"),
        ("complete", {"n": MAX_VERTICES + 1}, f"n: .*less than or equal to {MAX_VERTICES}"),
        ("ring", {"n": 8, "radius": 0.5}, "radius: there is no such key"),
        ("star", {"n": 8, "seed": 1}, "seed: there is no such key"),
        ("barbell", {"n": 3}, "n: .*greater than 3"),
        ("torus", {"n": 7}, "7 has no divisor.*use ring"),
        ("hypercube", {"n": 12}, "12 is not a power of two"),
        ("one-peer-exponential", {"n": 0}, "n: .*greater than 1"),
        ("geometric", {"n": 8, "radius": 0}, "radius: .*greater than 0"),
        ("geometric", {"n": 32, "radius": 0.01}, "raise radius: none of 100 draws was connected"),
        ("regular", {"n": 5, "degree": 3}, "degree 3 does not go with n 5"),
        ("regular", {"n": 4, "degree": 4}, "degree 4 does not go with n 4"),
        ("regular", {"n": 8, "degree": 1}, "raise degree: none of"),
        ("erdos-renyi", {"n": 8, "p": 1.5}, "p: .*less than or equal to 1"),
        ("erdos-renyi", {"n": 32, "p": 0.001}, "raise p: none of"),
        ("small-world", {"n": 8, "k": 3}, "k: .*multiple of 2"),
        ("small-world", {"n": 4, "k": 6}, "k 6 does not go with n 4"),
        ("small-world", {"n": 8, "seed": -1}, "seed: .*greater than or equal to 0"),
        ("edges", {"edges": []}, "edges: .*at least 1"),
        ("edges", {"edges": [(0, 2)]}, r"vertices must be 0\.\.1"),
        ("edges", {"edges": [(-1, 0)]}, "vertices must be"),
        ("edges", {"edges": [(0, 1), (1, 0)]}, "given twice"),
        ("edges", {"edges": [(0, 1), (1, 1)]}, "joins a vertex to itself"),
        ("edges", {"edges": [(0, 1), (2, 3)]}, "not connected"),
    ],
)
def test_what_cannot_be_is_refused_in_one_plain_line(name: str, options: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refusal:
        graphs.make(name, **options)
    assert "\n" not in str(refusal.value)


def test_a_schedule_is_further_graphs_on_the_same_vertices() -> None:
    square = [[0, 2], [2, 1], [1, 3], [3, 0]]
    schedule = [{"at": 0.25, "kind": "star"}, {"at": 0.5, "kind": "edges", "edges": square}]
    graph = graphs.parse({"kind": "ring", "n": 4, "schedule": schedule})
    assert [epoch.name for epoch in graph.epochs] == ["ring", "star", "edges"]
    assert graph.epochs[1] == graphs.make("star", n=4)
    assert graph.epochs[2].neighbours(0) == [2, 3]
    assert [graph.epoch_at(progress) for progress in (0, 0.24, 0.25, 0.49, 0.5, 1)] == [0, 0, 1, 1, 2, 2]
    assert graphs.parse(graph.model_dump(mode="json")) == graph


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "star"}, r"schedule\.1\.at: is missing"),
        ({"at": 0, "kind": "star"}, r"schedule\.1\.at: .*greater than 0"),
        ({"at": 1, "kind": "star"}, r"schedule\.1\.at: .*less than 1"),
        ({"at": 0.25, "kind": "star"}, r"schedule\.1\.at: 0\.25 is no later than 0\.25"),
        ({"at": 0.1, "kind": "star"}, r"schedule\.1\.at: 0\.1 is no later than 0\.25"),
        ({"at": 0.5}, r"schedule\.1: says not which graph"),
        ({"at": 0.5, "kind": 5}, r"schedule\.1: .* is no graph"),
        ({"at": 0.5, "kind": "wheel"}, r"schedule\.1: unknown graph 'wheel'"),
        ({"at": 0.5, "kind": "ring", "n": 5}, r"schedule\.1: 5 vertices, and the first graph has 4"),
        ({"at": 0.5, "kind": "edges", "edges": [[0, 1], [2, 3]]}, r"schedule\.1: .*the graph is not connected"),
        ({"at": 0.5, "kind": "ring", "radius": 1}, r"schedule\.1: .*radius: there is no such key"),
        ({"at": 0.5, "kind": "ring", "schedule": []}, r"schedule\.1: a graph of a schedule has none of its own"),
    ],
)
def test_schedules_that_cannot_be(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refusal:
        graphs.make("ring", n=4, schedule=[{"at": 0.25, "kind": "star"}, change])
    assert "\n" not in str(refusal.value)


@st.composite
def connected_edges(draw: st.DrawFn) -> list[tuple[int, int]]:
    """A random tree and some more, in any order, either way round."""
    n = draw(st.integers(2, 12))
    tree = {(draw(st.integers(0, i - 1)), i) for i in range(1, n)}
    pairs = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda pair: pair[0] < pair[1])
    edges = draw(st.permutations(sorted(tree | draw(st.sets(pairs, max_size=20)))))
    return [(j, i) if draw(st.booleans()) else (i, j) for i, j in edges]


@given(edges=connected_edges(), data=st.data())
@settings(deadline=None)
def test_edges_keep_their_order_and_their_rates(edges: list[tuple[int, int]], data: st.DataObject) -> None:
    graph = graphs.make("edges", edges=edges)
    assert graph.edges == edges
    assert graph.model_dump()["edges"] == tuple(edges)
    rates = data.draw(st.lists(st.floats(0.1, 10), min_size=len(edges), max_size=len(edges)))
    expected = networkx.Graph()
    expected.add_nodes_from(range(graph.num_nodes))
    expected.add_weighted_edges_from((i, j, rate) for (i, j), rate in zip(edges, rates, strict=True))
    assert np.allclose(graph.laplacian(rates), networkx.laplacian_matrix(expected).toarray())
    resistances = [networkx.resistance_distance(expected, i, j, "weight", invert_weight=False) for i, j in edges]
    assert graph.chi2(rates) == pytest.approx(max(resistances) / 2)
    assert graph.chi1(rates) * (1 + 1e-9) >= graph.chi2(rates) > 0
