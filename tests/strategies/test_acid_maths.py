"""A2CiD2's mixing, and how much faster than plain gossip it makes nodes agree."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadratics import quadratics
from scipy.linalg import expm
from torch import Tensor

from p2ptrain import graphs
from p2ptrain.errors import ConfigError
from p2ptrain.graphs import Graph
from p2ptrain.seeds import python_random
from p2ptrain.strategies import acid
from p2ptrain.strategies.dadao.replay import Tick, ticks

RING = graphs.make("ring", n=16)
ONE_EACH = np.full(16, 0.5)
"""Rates of the ring's edges at which each node has one exchange per unit of time."""
etas = st.floats(0, 5)
times = st.floats(0, 50)


def any_state(seed: int, d: int = 4) -> acid.State:
    return acid.State(*torch.randn(2, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


@given(eta=etas, dt=times)
@settings(deadline=None, derandomize=True)
def test_the_flow_is_the_exponential_of_its_matrix(eta: float, dt: float) -> None:
    matrix = expm(dt * eta * np.array([[-1.0, 1.0], [1.0, -1.0]]))
    constants = acid.Constants(eta, 0.5, 1.0)
    columns = acid.State(*torch.eye(2, dtype=torch.float64))
    assert torch.stack(acid.flow(columns, dt, constants)).numpy() == pytest.approx(matrix, abs=1e-12)


@given(eta=etas, first=times, then=times, seed=st.integers(0, 99))
@settings(deadline=None, derandomize=True)
def test_to_flow_twice_is_to_flow_once_for_as_long(eta: float, first: float, then: float, seed: int) -> None:
    constants, state = acid.Constants(eta, 0.5, 1.0), any_state(seed)
    twice = acid.flow(acid.flow(state, first, constants), then, constants)
    once = acid.flow(state, first + then, constants)
    assert torch.allclose(torch.stack(twice), torch.stack(once), rtol=0, atol=1e-12)
    assert torch.allclose(sum(once), sum(state), rtol=0, atol=1e-12), "what x loses x~ gains"


@given(seed=st.integers(0, 99), ratio=st.floats(1, 100))
@settings(deadline=None, derandomize=True)
def test_what_one_end_of_an_exchange_gains_the_other_loses(seed: int, ratio: float) -> None:
    constants = acid.constants(ratio, 1.0)
    one, other = any_state(seed), any_state(seed + 1)
    after = acid.exchange_event(one, other, constants)
    assert torch.allclose(after[0].x + after[1].x, one.x + other.x)
    assert torch.allclose(after[0].x_tilde + after[1].x_tilde, one.x_tilde + other.x_tilde)
    assert torch.allclose(after[0].x, after[1].x), "replicas that have met are equal"


def test_without_momentum_it_is_plain_gossip() -> None:
    one, other = any_state(1), any_state(2)
    assert torch.equal(torch.stack(acid.flow(one, 3.0, acid.PLAIN)), torch.stack(one))
    one, other = acid.State(one.x, one.x), acid.State(other.x, other.x)
    for state in acid.exchange_event(one, other, acid.PLAIN):
        assert torch.allclose(state.x, (one.x + other.x) / 2)
        assert torch.equal(state.x, state.x_tilde)


def test_a_gradient_moves_both_alike() -> None:
    state, update = any_state(1), torch.ones(4, dtype=torch.float64)
    after = acid.gradient_event(state, update)
    assert torch.allclose(after.x - after.x_tilde, state.x - state.x_tilde)
    assert torch.equal(after.x, state.x + update)


def test_constants_are_those_of_the_paper() -> None:
    assert acid.constants(chi1=9.0, chi2=1.0) == pytest.approx((1 / 6, 1 / 2, 3 / 2))
    complete = graphs.make("complete", n=8)
    assert acid.constants(complete.chi1(), complete.chi2()).alpha_tilde == pytest.approx(1 / 2)


def consensus(points: list[Tensor]) -> float:
    stacked = torch.stack(points)
    return float((stacked - stacked.mean(0)).square().sum(1).mean())


def averaging(graph: Graph, rates: np.ndarray, constants: acid.Constants, until: float, seed: int) -> float:
    """By how much the logarithm of the squared consensus distance falls per unit of time, once the first third of
    `until`, in which the easy part goes, is over."""
    states = [acid.State(x, x) for x in torch.randn(graph.num_nodes, 32, generator=torch.Generator().manual_seed(seed))]
    seen, early = [0.0] * graph.num_nodes, 0.0
    for tick in ticks([0.0] * graph.num_nodes, graph.edges, rates, python_random(seed, "ticks")):
        if early == 0.0 and tick.time > until / 3:
            early = consensus([state.x for state in states])
        if tick.time > until:
            break
        assert tick.edge is not None
        i, j = tick.edge
        ends = (acid.flow(states[node], tick.time - seen[node], constants) for node in tick.edge)
        states[i], states[j] = acid.exchange_event(*ends, constants)
        seen[i] = seen[j] = tick.time
    return math.log(early / consensus([state.x for state in states])) / (until * 2 / 3)


def test_nodes_on_a_ring_agree_at_least_twice_as_fast() -> None:
    constants = acid.constants(RING.chi1(ONE_EACH), RING.chi2(ONE_EACH))
    plain, fast = (
        np.median([averaging(RING, ONE_EACH, chosen, 75, seed) for seed in range(5)])
        for chosen in (acid.PLAIN, constants)
    )
    assert plain == pytest.approx(1 / RING.chi1(ONE_EACH), rel=0.4)
    assert fast > 2 * plain


def test_on_a_complete_graph_nothing_is_gained_and_little_lost() -> None:
    graph = graphs.make("complete", n=16)
    rates = np.full(len(graph.edges), 1 / 15)
    constants = acid.constants(graph.chi1(rates), graph.chi2(rates))
    plain, fast = (
        np.median([averaging(graph, rates, chosen, 12, seed) for seed in range(3)])
        for chosen in (acid.PLAIN, constants)
    )
    assert 0.5 * plain < fast < 1.3 * plain


def noisy_descent(constants: acid.Constants, seed: int, until: float = 150) -> float:
    """Time average, in the second half, of the consensus distance of nodes whose functions differ."""
    problem = quadratics(16)
    states, seen = [acid.State(*torch.zeros(2, 5, dtype=torch.float64)) for _ in range(16)], [0.0] * 16
    noise, gradients = torch.Generator().manual_seed(seed), problem.gradients()

    def touch(node: int, tick: Tick) -> acid.State:
        state = acid.flow(states[node], tick.time - seen[node], constants)
        seen[node] = tick.time
        return state

    spread, count = 0.0, 0
    for tick in ticks([1.0] * 16, RING.edges, ONE_EACH, python_random(seed, "ticks")):
        if tick.time > until:
            return spread / count
        if tick.edge is not None:
            i, j = tick.edge
            states[i], states[j] = acid.exchange_event(touch(i, tick), touch(j, tick), constants)
        if tick.node is not None:
            state = touch(tick.node, tick)
            gradient = gradients[tick.node](state.x) + torch.randn(5, generator=noise, dtype=torch.float64)
            states[tick.node] = acid.gradient_event(state, -0.02 * gradient)
            if tick.time > until / 2:
                spread, count = spread + consensus([state.x for state in states]), count + 1
    raise AssertionError


def test_with_gradients_that_differ_replicas_stay_nearer_to_each_other() -> None:
    constants = acid.constants(RING.chi1(ONE_EACH), RING.chi2(ONE_EACH))
    plain, fast = (np.median([noisy_descent(chosen, seed) for seed in range(5)]) for chosen in (acid.PLAIN, constants))
    assert fast < 0.8 * plain


@pytest.mark.parametrize("chi", [(math.inf, math.inf), (1.0, 0.0), (1.0, 2.0), (math.nan, 1.0)])
def test_graphs_that_cannot_be(chi: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="is the graph connected"):
        acid.constants(*chi)
