"""The methods that go in rounds, against a sum of quadratics whose optimum is known."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadratics import Quadratics, quadratics, starts
from torch import Tensor

from p2ptrain import codecs, graphs
from p2ptrain.graphs import Graph
from p2ptrain.graphs.measures import lazy, metropolis_weights
from p2ptrain.strategies import cdproxsgt, dpsgd, exact_diffusion, gradient_tracking

N, LR = 6, 0.2
PROBLEM = quadratics(N, condition=4)
GRAPHS = ["ring", "complete", "star", "geometric"]
Gradients = Sequence[Callable[[Tensor], Tensor]]


def neighbourhoods(graph: Graph, weights: np.ndarray) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """What each node makes of its own vector and its neighbours'."""

    def averaged(vectors: Sequence[Tensor]) -> list[Tensor]:
        near = [sorted({slot, *graph.neighbours(slot)}) for slot in range(graph.num_nodes)]
        return [torch.stack([weights[i, j] * vectors[j] for j in near[i]]).sum(0) for i in range(graph.num_nodes)]

    return averaged


def averages(name: str, n: int = N) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    graph = graphs.make(name, n=n)
    return neighbourhoods(graph, lazy(metropolis_weights(graph)))


def run_dpsgd(problem: Quadratics, name: str, rounds: int, lr: float) -> list[Tensor]:
    average, gradients, points = averages(name), problem.gradients(), starts(problem)
    for _ in range(rounds):
        slopes = [gradient(x) for gradient, x in zip(gradients, points, strict=True)]
        mixed = average(points)
        points = [dpsgd.step(m, slope, lr) for m, slope in zip(mixed, slopes, strict=True)]
    return points


def run_tracking(problem: Quadratics, name: str, rounds: int, lr: float) -> list[gradient_tracking.State]:
    average, gradients = averages(name), problem.gradients()
    states = [gradient_tracking.begin(x, g(x)) for x, g in zip(starts(problem), gradients, strict=True)]
    for _ in range(rounds):
        mixed_x, mixed_q = average([s.x for s in states]), average([s.q for s in states])
        points = [gradient_tracking.move(mixed, s, lr) for mixed, s in zip(mixed_x, states, strict=True)]
        states = [
            gradient_tracking.track(mixed, s, x, g(x))
            for mixed, s, x, g in zip(mixed_q, states, points, gradients, strict=True)
        ]
    return states


def run_diffusion(problem: Quadratics, name: str, rounds: int, lr: float) -> list[Tensor]:
    average, gradients = averages(name), problem.gradients()
    states = [exact_diffusion.begin(x) for x in starts(problem)]
    for _ in range(rounds):
        pairs = [exact_diffusion.adapt(s, g(s.x), lr) for s, g in zip(states, gradients, strict=True)]
        mixed = average([phi for phi, _ in pairs])
        states = [exact_diffusion.combine(m, psi) for m, (_, psi) in zip(mixed, pairs, strict=True)]
    return [state.x for state in states]


Compress = Callable[[Tensor], Tensor]


def run_compressed(
    problem: Quadratics, name: str, rounds: int, lr: float, compress: Compress, gamma: float, l1: float = 0.0
) -> list[cdproxsgt.State]:
    average, gradients = averages(name), problem.gradients()
    states = [cdproxsgt.begin(starts(problem)[0]) for _ in range(problem.num_nodes)]
    for _ in range(rounds):
        states = [cdproxsgt.track(s, g(s.x)) for s, g in zip(states, gradients, strict=True)]
        sent = [compress(s.y - s.public_y.own) for s in states]
        states = [cdproxsgt.mix_y(s, *both, gamma) for s, *both in zip(states, sent, average(sent), strict=True)]
        states = [cdproxsgt.step(s, lr, l1) for s in states]
        sent = [compress(s.x - s.public_x.own) for s in states]
        states = [cdproxsgt.mix_x(s, *both, gamma) for s, *both in zip(states, sent, average(sent), strict=True)]
    return states


@pytest.mark.parametrize("name", GRAPHS)
def test_gradient_tracking_finds_the_exact_optimum(name: str) -> None:
    states = run_tracking(PROBLEM, name, rounds=600, lr=0.1)
    assert PROBLEM.distance([state.x for state in states]) < 1e-14
    for part in ("q", "gradient"):
        total = torch.stack([getattr(state, part) for state in states]).sum(0)
        assert float(total.abs().max()) < 1e-6


def test_the_trackers_sum_to_the_gradients_at_every_moment() -> None:
    for rounds in (0, 1, 7):
        states = run_tracking(PROBLEM, "ring", rounds, LR)
        total = torch.stack([state.q for state in states]).sum(0)
        assert torch.allclose(total, torch.stack([state.gradient for state in states]).sum(0), atol=1e-10)


@pytest.mark.parametrize("name", GRAPHS)
def test_exact_diffusion_finds_the_exact_optimum(name: str) -> None:
    assert PROBLEM.distance(run_diffusion(PROBLEM, name, rounds=500, lr=LR)) < 1e-18


@pytest.mark.parametrize("name", ["ring", "star"])
def test_dpsgd_settles_beside_the_optimum_by_the_square_of_its_learning_rate(name: str) -> None:
    far, near = (PROBLEM.distance(run_dpsgd(PROBLEM, name, round(40 / lr), lr)) for lr in (0.05, 0.01))
    assert far > 1e-3
    assert far / near == pytest.approx(25, rel=0.5)


def test_dpsgd_finds_it_where_all_data_are_the_same() -> None:
    same = Quadratics(PROBLEM.matrices[:1].expand(N, -1, -1), PROBLEM.centres[:1].expand(N, -1), 1.0, 0.25)
    assert same.distance(run_dpsgd(same, "ring", 500, LR)) < 1e-20


def biggest(vector: Tensor) -> Tensor:
    """Two of five coordinates."""
    kept = torch.zeros_like(vector)
    where = vector.abs().topk(2).indices
    kept[where] = vector[where]
    return kept


def int8(vector: Tensor) -> Tensor:
    codec = codecs.make("int8")
    return codec.decode(codec.encode(vector)).double()


def exactly(vector: Tensor) -> Tensor:
    return vector


@pytest.mark.parametrize(("compress", "gamma"), [(exactly, 1.0), (int8, 1.0), (biggest, 0.3)])
@pytest.mark.parametrize("name", ["ring", "complete"])
def test_cdproxsgt_finds_the_exact_optimum_though_nothing_is_sent_exactly(
    name: str, compress: Compress, gamma: float
) -> None:
    states = run_compressed(PROBLEM, name, rounds=600, lr=0.1, compress=compress, gamma=gamma)
    assert PROBLEM.distance([state.x for state in states]) < 1e-8
    total = torch.stack([state.y for state in states]).sum(0)
    assert torch.allclose(total, torch.stack([state.gradient for state in states]).sum(0), atol=1e-9)


def test_cdproxsgt_finds_the_optimum_with_a_penalty() -> None:
    """The sum of all plus n l1 |x|_1 has its optimum where the gradient is -n l1 sign(x), or below it where x is 0."""
    l1 = 0.3
    states = run_compressed(PROBLEM, "ring", rounds=600, lr=0.1, compress=biggest, gamma=0.3, l1=l1)
    x = torch.stack([state.x for state in states]).mean(0)
    slope = torch.stack([gradient(x) for gradient in PROBLEM.gradients()]).mean(0)
    used = x.abs() > 1e-6
    assert 0 < int(used.sum()) < len(x), "some coordinates are zero"
    assert torch.allclose(slope[used], -l1 * x[used].sign(), atol=1e-6)
    assert float(slope[~used].abs().max()) <= l1 + 1e-6


def test_without_compression_cdproxsgt_is_its_parent() -> None:
    """With gamma 1 and nothing lost, the public copies are the vectors themselves."""
    states = run_compressed(PROBLEM, "star", rounds=5, lr=0.1, compress=exactly, gamma=1.0)
    average, gradients = averages("star"), PROBLEM.gradients()
    x, y, old = [starts(PROBLEM)[0]] * N, [torch.zeros(5, dtype=torch.float64)] * N, [torch.zeros(5)] * N
    for _ in range(5):
        slopes = [gradient(point) for gradient, point in zip(gradients, x, strict=True)]
        y = average([a + b - c for a, b, c in zip(y, slopes, old, strict=True)])
        x, old = average([a - 0.1 * b for a, b in zip(x, y, strict=True)]), slopes
    assert torch.allclose(torch.stack([state.x for state in states]), torch.stack(x), atol=1e-12)


@given(vector=st.lists(st.floats(-5, 5), min_size=1, max_size=5), by=st.floats(0, 3), other=st.floats(-5, 5))
@settings(deadline=None, derandomize=True)
def test_the_threshold_is_the_least_of_penalty_and_distance(vector: list[float], by: float, other: float) -> None:
    x = torch.tensor(vector, dtype=torch.float64)

    def price(u: Tensor) -> Tensor:
        return by * u.abs() + (u - x).square() / 2

    assert (price(cdproxsgt.soft_threshold(x, by)) <= price(torch.full_like(x, other)) + 1e-12).all()


def test_mixing_is_a_row_of_the_matrix() -> None:
    graph = graphs.make("geometric", n=N)
    weights = lazy(metropolis_weights(graph))
    assert np.linalg.eigvalsh(weights).min() >= 0
    assert weights.sum(1) == pytest.approx(np.ones(N))
    vectors = starts(PROBLEM)
    mixed = torch.stack(neighbourhoods(graph, weights)(vectors))
    assert torch.allclose(mixed, torch.from_numpy(weights) @ torch.stack(vectors))
