"""What the flow, a gradient and an exchange do, against independent solvers and against what theory says of them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadratics import quadratics
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from torch import Tensor

from p2ptrain import graphs
from p2ptrain.errors import ConfigError
from p2ptrain.strategies import dadao
from p2ptrain.strategies.dadao.maths import propagator

times = st.floats(0, 50)
seeds = st.integers(0, 1000)


@st.composite
def any_constants(draw: st.DrawFn) -> dadao.Constants:
    convexity = draw(st.floats(1e-3, 10))
    condition = draw(st.floats(1, 1e5))
    chi1 = draw(st.floats(0.1, 50))
    return dadao.constants(convexity * condition, convexity, chi1, 0.5 / chi1)


def any_state(seed: int, dtype: torch.dtype = torch.float64, d: int = 4) -> dadao.State:
    generator = torch.Generator().manual_seed(seed)
    return dadao.State(*torch.randn(6, d, generator=generator, dtype=dtype))


def rate_of_change(state: Tensor, constants: dadao.Constants) -> Tensor:
    """(6, d): the flow as it is written."""
    c, (x, x_tilde, y, y_tilde, z, z_tilde) = constants, state
    return torch.stack(
        [
            c.eta * (x_tilde - x),
            c.eta_tilde * (x - x_tilde),
            c.alpha * (y_tilde - y),
            -c.theta * (y + z + c.nu * x_tilde),
            c.alpha * (z_tilde - z),
            c.alpha_tilde * (z - z_tilde),
        ]
    )


def test_the_constants_are_those_of_the_table() -> None:
    """Numbers from the paper's expressions, worked out by hand for L = 8, mu = 1 (so nu = 1/2, sqrt(nu / L) = 1/4)."""
    found = dadao.constants(8, 1, chi1=3, chi2=0.1)
    assert found._asdict() == pytest.approx(
        {
            "nu": 1 / 2, "eta": 1 / 32, "eta_tilde": 1 / 32, "alpha": 1 / 16, "alpha_tilde": 1 / 32, "theta": 2.0,
            "beta": 1 / 2, "beta_tilde": 24.0, "delta": 1 / 16, "delta_tilde": 1.0, "gamma": 1 / 32,
            "gamma_tilde": 1 / 8,
        },
        rel=1e-15,
    )  # fmt: skip


@given(constants=any_constants(), dt=st.floats(0, 200))
@settings(deadline=None, derandomize=True)
def test_the_flow_is_the_exponential_of_its_matrix(constants: dadao.Constants, dt: float) -> None:
    matrix = rate_of_change(torch.eye(6, dtype=torch.float64), constants).numpy()
    expected = expm(dt * matrix)
    assert np.abs(propagator(dt, constants) - expected).max() <= 1e-11 * np.abs(expected).max()


@pytest.mark.parametrize("dt", [0.01, 1.0, 30.0])
def test_the_flow_solves_its_equations(dt: float) -> None:
    constants, state = dadao.constants(20, 0.5, 2.0, 0.2), any_state(1)

    def right_side(_: float, flat: np.ndarray) -> np.ndarray:
        return rate_of_change(torch.from_numpy(flat).view(6, -1), constants).numpy().ravel()

    solved = solve_ivp(right_side, (0, dt), torch.stack(state).numpy().ravel(), rtol=1e-11, atol=1e-12).y[:, -1]
    assert torch.stack(dadao.flow(state, dt, constants)).numpy().ravel() == pytest.approx(solved, rel=1e-7, abs=1e-8)


@given(constants=any_constants(), first=times, then=times, seed=seeds)
@settings(deadline=None, derandomize=True)
def test_to_flow_twice_is_to_flow_once_for_as_long(
    constants: dadao.Constants, first: float, then: float, seed: int
) -> None:
    state = any_state(seed)
    twice = dadao.flow(dadao.flow(state, first, constants), then, constants)
    once = dadao.flow(state, first + then, constants)
    scale = float(torch.stack(once).abs().max()) + float(torch.stack(twice).abs().max())
    assert torch.allclose(torch.stack(twice), torch.stack(once), rtol=0, atol=1e-9 * scale * constants.theta)


@given(constants=any_constants(), seed=seeds)
@settings(deadline=None, derandomize=True)
def test_no_time_changes_nothing(constants: dadao.Constants, seed: int) -> None:
    state = any_state(seed)
    assert torch.equal(torch.stack(dadao.flow(state, 0.0, constants)), torch.stack(state))


@given(dt=times, seed=seeds)
@settings(deadline=None, derandomize=True)
def test_single_precision_only_rounds(dt: float, seed: int) -> None:
    constants = dadao.constants(8, 1, 2, 0.2)
    single = dadao.flow(any_state(seed, torch.float32), dt, constants)
    double = dadao.flow(dadao.State(*(part.double() for part in any_state(seed, torch.float32))), dt, constants)
    assert all(part.dtype == torch.float32 for part in single)
    scale = float(torch.stack(double).abs().max()) + 1
    assert torch.allclose(torch.stack(single).double(), torch.stack(double), rtol=0, atol=2e-6 * scale)


@given(constants=any_constants(), seed=seeds)
@settings(deadline=None, derandomize=True)
def test_what_one_end_of_an_exchange_gains_the_other_loses(constants: dadao.Constants, seed: int) -> None:
    before = any_state(seed), any_state(seed + 1)
    after = dadao.exchange_event(*before, constants)
    for part in dadao.State._fields:
        old, new = (sum(getattr(state, part) for state in pair) for pair in (before, after))
        assert torch.allclose(old, new, rtol=0, atol=1e-12 * (1 + constants.beta_tilde))
    for part in ("x", "x_tilde", "y", "y_tilde"):
        assert torch.equal(getattr(before[0], part), getattr(after[0], part))
    difference = dadao.message(before[0]) - dadao.message(before[1])
    assert torch.allclose(before[0].z - after[0].z, difference / 2)
    assert torch.allclose(before[0].z_tilde - after[0].z_tilde, constants.beta_tilde * difference)


@given(seed=seeds)
@settings(deadline=None, derandomize=True)
def test_an_exchange_has_no_direction_and_leaves_those_who_agree(seed: int) -> None:
    constants = dadao.constants(8, 1, 2, 0.2)
    one, other = any_state(seed), any_state(seed + 1)
    there, back = dadao.exchange_event(one, other, constants), dadao.exchange_event(other, one, constants)
    assert all(torch.equal(a, b) for a, b in zip((*there[0], *there[1]), (*back[1], *back[0]), strict=True))
    same = dadao.exchange_event(one, one, constants)
    assert torch.equal(torch.stack(same[0]), torch.stack(one))


def test_a_jump_is_what_was_sent_however_the_state_went_on() -> None:
    constants = dadao.constants(8, 1, 2, 0.2)
    one, other = any_state(1), any_state(2)
    sent = dadao.message(one), dadao.message(other)
    moved = dadao.gradient_event(one, torch.ones(4, dtype=torch.float64), constants)
    after = dadao.jump(moved, sent[0], sent[1], constants), dadao.jump(other, sent[1], sent[0], constants)
    assert torch.allclose(after[0].z + after[1].z, one.z + other.z)
    assert torch.allclose(after[0].z_tilde + after[1].z_tilde, one.z_tilde + other.z_tilde)


def test_a_gradient_event_by_hand() -> None:
    constants = dadao.constants(8, 1, 3, 0.1)
    state = dadao.State(*(torch.tensor([float(k)], dtype=torch.float64) for k in (2, 3, 4, 5, 6, 7)))
    after = dadao.gradient_event(state, torch.tensor([10.0], dtype=torch.float64), constants)
    step = 10 - 2 / 2 - 5
    assert [float(part) for part in after] == [2 - step / 32, 3 - step / 8, 4, 5 + step * 17 / 16, 6, 7]


def test_the_optimum_stays() -> None:
    """x = x~ = x*, y = y~ = grad f_i(x*) - nu x*, z = z~ = -grad f_i(x*): no event and no flow moves it."""
    problem = quadratics(n=6)
    constants = dadao.constants(problem.smoothness, problem.convexity, 2.0, 0.2)
    gradients = [gradient(problem.optimum) for gradient in problem.gradients()]
    for i, gradient in enumerate(gradients):
        x, y = problem.optimum, gradient - constants.nu * problem.optimum
        state = dadao.State(x, x, y, y, -gradient, -gradient)
        peer = gradients[i - 1]
        other = dadao.State(x, x, peer - constants.nu * x, peer - constants.nu * x, -peer, -peer)
        for moved in (
            dadao.flow(state, 7.0, constants),
            dadao.gradient_event(state, gradient, constants),
            dadao.exchange_event(state, other, constants)[0],
        ):
            assert torch.allclose(torch.stack(moved), torch.stack(state), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ((1.0, 0.0, 1, 1), "0 < mu <= L.*L2 penalty"),
        ((1.0, -1.0, 1, 1), "0 < mu <= L"),
        ((1.0, 2.0, 1, 1), "0 < mu <= L"),
        ((math.inf, 1.0, 1, 1), "0 < mu <= L"),
        ((math.nan, 1.0, 1, 1), "0 < mu <= L"),
        ((1.0, math.nan, 1, 1), "0 < mu <= L"),
        ((1.0, 0.5, math.inf, math.inf), "is the graph connected"),
        ((1.0, 0.5, 0, 1), "above zero"),
        ((1.0, 0.5, math.nan, 1), "finite chi1"),
    ],
)
def test_problems_and_graphs_that_cannot_be(numbers: tuple[float, float, float, float], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refusal:
        dadao.constants(*numbers)
    assert "\n" not in str(refusal.value)


def test_rates_that_are_too_low_are_told_by_how_much() -> None:
    graph = graphs.make("ring", n=10)
    rates = graph.uniform_rates()
    dadao.check_rates(graph.chi1(rates), graph.chi2(rates))
    with pytest.raises(ConfigError, match=r"would diverge: chi1 \* chi2 is 2, .* exchange 2 times as often"):
        dadao.check_rates(graph.chi1(rates / 2), graph.chi2(rates / 2))
    with pytest.raises(ConfigError, match="would diverge"):
        dadao.check_rates(math.nan, 1.0)
