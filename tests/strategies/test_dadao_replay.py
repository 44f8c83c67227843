"""Whole runs of DADAO from a list of events: they find the exact optimum as fast as theory says, and nothing that only
concerns time can bias them."""

import math
import random
from itertools import takewhile

import numpy as np
import pytest
import torch
from quadratics import Quadratics, quadratics, starts
from torch import Tensor

from p2ptrain import graphs
from p2ptrain.graphs import Graph
from p2ptrain.seeds import python_random
from p2ptrain.strategies import dadao
from p2ptrain.strategies.dadao.membership import begin, imbalance, join, leave, recentre, restart, settled_gradient
from p2ptrain.strategies.dadao.replay import Swarm, Tick, exchange_gaps, ticks

N = 6


def swarm_on(graph: Graph, problem: Quadratics, rates: np.ndarray, dtype: torch.dtype = torch.float64) -> Swarm:
    constants = dadao.constants(problem.smoothness, problem.convexity, graph.chi1(rates), graph.chi2(rates))
    return Swarm([begin(x) for x in starts(problem, dtype)], constants, problem.gradients(dtype))


def run(swarm: Swarm, graph: Graph, rates: np.ndarray, until: float, seed: int = 0, since: float = 0.0) -> None:
    """Poisson clocks for `until - since`; all states are then as of `until`."""
    rng = python_random(seed, "ticks", since)
    for tick in takewhile(
        lambda tick: tick.time < until - since, ticks([1.0] * graph.num_nodes, graph.edges, rates, rng)
    ):
        swarm.tick(tick._replace(time=tick.time + since))
    swarm.all_at(until)


def points(swarm: Swarm) -> list[Tensor]:
    return [state.x for state in swarm.states]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["ring", "complete", "geometric"])
def test_the_distance_falls_as_fast_as_theory_says(name: str, seed: int) -> None:
    """Theory promises exp(-eta t) for the squared distance; what was seen on every problem is 1.6 to 1.8 times that."""
    graph, problem = graphs.make(name, n=N), quadratics(N)
    rates = graph.uniform_rates()
    swarm = swarm_on(graph, problem, rates)
    run(swarm, graph, rates, until=40, seed=seed)
    early = problem.distance(points(swarm))
    run(swarm, graph, rates, until=240, seed=seed, since=40)
    decay = math.log(early / problem.distance(points(swarm))) / 200
    assert 1.4 < decay / swarm.constants.eta < 2.1
    assert float(imbalance(swarm.states, swarm.constants).abs().max()) < 1e-13


def test_optimal_rates_need_fewer_exchanges_for_the_same() -> None:
    graph, problem = graphs.make("geometric", n=12, seed=1), quadratics(12)
    counts, distances = [], []
    for rates in (graph.uniform_rates(), graph.optimal_rates()):
        swarm = swarm_on(graph, problem, rates)
        run(swarm, graph, rates, until=80)
        counts.append(swarm.num_exchanges)
        distances.append(problem.distance(points(swarm)))
    assert counts[1] < 0.6 * counts[0]
    assert distances[1] < 2 * distances[0]


def test_single_precision_comes_as_near_as_it_can() -> None:
    graph, problem = graphs.make("complete", n=4), quadratics(4)
    rates = graph.uniform_rates()
    swarm = swarm_on(graph, problem, rates, torch.float32)
    run(swarm, graph, rates, until=600)
    assert all(part.dtype == torch.float32 for state in swarm.states for part in state)
    assert problem.distance(points(swarm)) < 1e-10
    assert float(imbalance(swarm.states, swarm.constants).abs().max()) < 1e-5


def test_in_the_end_all_duals_say_what_they_should() -> None:
    graph, problem = graphs.make("complete", n=4), quadratics(4)
    rates = graph.uniform_rates()
    swarm = swarm_on(graph, problem, rates)
    run(swarm, graph, rates, until=700)
    for state, gradient in zip(swarm.states, problem.gradients(), strict=True):
        at_optimum = gradient(problem.optimum)
        assert torch.allclose(state.y, at_optimum - swarm.constants.nu * problem.optimum, atol=1e-5)
        assert torch.allclose(state.z, -at_optimum, atol=1e-5)


@pytest.mark.parametrize("speeds", [[0.5] + [1.0] * 5, [4.0] + [1.0] * 5, [0.5, 1.5] * 3])
def test_nodes_of_other_speeds_change_the_way_but_not_the_end(speeds: list[float]) -> None:
    graph, problem = graphs.make("ring", n=N), quadratics(N)
    rates = graph.uniform_rates() * 1.25
    swarm = swarm_on(graph, problem, rates)
    for tick in takewhile(lambda tick: tick.time < 250, ticks(speeds, graph.edges, rates, python_random(0))):
        swarm.tick(tick)
    assert problem.distance(points(swarm)) < 1e-4


def test_clocks_that_go_wrong_do_not_bias() -> None:
    """Each node's time runs at its own speed."""
    graph, problem = graphs.make("ring", n=N), quadratics(N)
    rates = graph.uniform_rates() * 1.25
    swarm = swarm_on(graph, problem, rates)
    skews = np.linspace(0.8, 1.2, N)

    class Skewed(Swarm):
        def at(self, node: int, time: float) -> dadao.State:
            return super().at(node, time * skews[node])

    skewed = Skewed(swarm.states, swarm.constants, swarm.gradients)
    run(skewed, graph, rates, until=250)
    assert problem.distance(points(skewed)) < 1e-4
    assert float(imbalance(skewed.states, skewed.constants).abs().max()) < 1e-13


def test_exchanges_that_are_lost_whole_do_no_harm() -> None:
    graph, problem = graphs.make("ring", n=N), quadratics(N)
    rates = graph.uniform_rates() * 1.5
    swarm, rng = swarm_on(graph, problem, rates), random.Random(0)
    for tick in takewhile(lambda tick: tick.time < 250, ticks([1.0] * N, graph.edges, rates, python_random(0))):
        if tick.edge is None or rng.random() > 0.2:
            swarm.tick(tick)
    assert problem.distance(points(swarm)) < 1e-4


def test_with_too_few_exchanges_the_clock_on_the_wall_diverges_and_that_of_exchanges_does_not() -> None:
    """A quarter of what the rates should be, and twenty units of silence in the middle."""
    graph, problem = graphs.make("ring", n=N), quadratics(N)
    rates, realised = graph.uniform_rates(), graph.uniform_rates() / 4
    by_wall = swarm_on(graph, problem, rates)
    by_exchange = Swarm(by_wall.states, by_wall.constants, by_wall.gradients, exchange_gaps(graph, rates))
    for swarm in (by_wall, by_exchange):
        run(swarm, graph, realised, until=100)
        run(swarm, graph, realised, until=800, since=120)
    assert not problem.distance(points(by_wall)) < 1e3
    assert problem.distance(points(by_exchange)) < 1e-3
    assert float(imbalance(by_exchange.states, by_exchange.constants).abs().max()) < 1e-12


def test_with_enough_exchanges_it_does_not_matter_which_clock() -> None:
    graph, problem = graphs.make("geometric", n=N), quadratics(N)
    rates = graph.uniform_rates()
    by_wall = swarm_on(graph, problem, rates)
    by_exchange = Swarm(by_wall.states, by_wall.constants, by_wall.gradients, exchange_gaps(graph, rates))
    for swarm in (by_wall, by_exchange):
        run(swarm, graph, rates, until=200)
    assert problem.distance(points(by_exchange)) == pytest.approx(problem.distance(points(by_wall)), rel=2)


def test_one_sided_exchanges_bias_for_ever_and_the_imbalance_says_by_how_much() -> None:
    graph, problem = graphs.make("ring", n=N), quadratics(N)
    rates = graph.uniform_rates()
    swarm = swarm_on(graph, problem, rates)
    run(swarm, graph, rates, until=30)
    one, other = swarm.states[0], swarm.states[1]
    swarm.states[0] = dadao.jump(one, dadao.message(one), dadao.message(other), swarm.constants)
    run(swarm, graph, rates, until=330, since=30)
    stuck = problem.distance(points(swarm))
    assert stuck > 1e-4
    run(swarm, graph, rates, until=400, since=330)
    assert problem.distance(points(swarm)) == pytest.approx(stuck, rel=1e-2)
    mean = torch.stack(points(swarm)).mean(0)
    total = torch.stack([gradient(mean) for gradient in problem.gradients()]).sum(0)
    assert torch.allclose(total, settled_gradient(swarm.states, swarm.constants), rtol=1e-2, atol=1e-3)


def survivors(problem: Quadratics, num: int) -> Quadratics:
    """The problem of the first `num` nodes alone."""
    return Quadratics(problem.matrices[:num], problem.centres[:num], problem.smoothness, problem.convexity)


def after_the_last_node_went(end: str) -> tuple[float, Tensor]:
    """Squared distance of the others to the optimum of their own, 300 units of time after it went; the imbalance."""
    problem = quadratics(N)
    before, after = graphs.make("complete", n=N), graphs.make("complete", n=N - 1)
    swarm = swarm_on(before, problem, before.uniform_rates())
    run(swarm, before, before.uniform_rates(), until=100)
    *staying, leaver = swarm.states
    if end == "handed over":
        staying = leave(leaver, staying)
    if end == "re-centred":
        means = torch.stack([state.z for state in staying]).mean(0), torch.stack([s.z_tilde for s in staying]).mean(0)
        staying = [recentre(state, *means) for state in staying]
    if end == "restarted":
        staying = [restart(state) for state in staying]
    rates = after.uniform_rates()
    constants = dadao.constants(problem.smoothness, problem.convexity, after.chi1(rates), after.chi2(rates))
    rest = Swarm(staying, constants, problem.gradients()[:-1])
    run(rest, after, rates, until=300)
    return survivors(problem, N - 1).distance(points(rest)), imbalance(rest.states, constants)


@pytest.mark.parametrize("end", ["handed over", "re-centred", "restarted"])
def test_those_who_stay_find_their_own_optimum(end: str) -> None:
    distance, left = after_the_last_node_went(end)
    assert distance < 1e-5
    assert float(left.abs().max()) < 1e-12


def test_a_node_that_goes_without_a_word_leaves_its_bias_behind() -> None:
    distance, left = after_the_last_node_went("lost")
    assert distance > 1e-2
    assert float(left.abs().max()) > 1e-2


def test_a_newcomer_is_taken_in() -> None:
    problem = quadratics(N)
    few, many = graphs.make("ring", n=N - 1), graphs.make("ring", n=N)
    swarm = swarm_on(few, survivors(problem, N - 1), few.uniform_rates())
    run(swarm, few, few.uniform_rates(), until=100)
    rates = many.uniform_rates()
    constants = dadao.constants(problem.smoothness, problem.convexity, many.chi1(rates), many.chi2(rates))
    whole = Swarm([*swarm.states, join(swarm.states[0].x, constants)], constants, problem.gradients())
    assert float(imbalance(whole.states, constants).abs().max()) < 1e-12
    run(whole, many, rates, until=300)
    assert problem.distance(points(whole)) < 1e-5


def test_ticks_come_at_their_rates_and_in_order() -> None:
    edges, rates = [(0, 1), (1, 2)], [0.5, 3.0]
    seen = list(takewhile(lambda tick: tick.time < 1000, ticks([1.0, 2.0, 0.25], edges, rates, python_random(3))))
    assert [tick.time for tick in seen] == sorted(tick.time for tick in seen)
    for mark, rate in [
        (Tick(0, node=0), 1),
        (Tick(0, node=1), 2),
        (Tick(0, edge=(0, 1)), 0.5),
        (Tick(0, edge=(1, 2)), 3),
    ]:
        count = sum((tick.node, tick.edge) == (mark.node, mark.edge) for tick in seen)
        assert count == pytest.approx(1000 * rate, abs=4 * (1000 * rate) ** 0.5)


def test_the_same_ticks_give_the_same_run() -> None:
    graph, problem = graphs.make("ring", n=4), quadratics(4)
    ends = []
    for _ in range(2):
        swarm = swarm_on(graph, problem, graph.uniform_rates())
        run(swarm, graph, graph.uniform_rates(), until=20, seed=7)
        ends.append(torch.stack(points(swarm)))
    assert torch.equal(ends[0], ends[1])
