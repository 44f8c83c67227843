"""Convex functions against finite differences, scikit-learn and closed forms."""

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from p2ptrain.errors import ConfigError
from p2ptrain.training.objective import Kind, Objective, l2_for

KINDS = get_args(Kind)


def an_objective(kind: Kind, seed: int = 0, l2: float = 0.1, weight: float = 1.0) -> Objective:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(40, 4)) * [1, 2, 0.5, 3]
    targets = rows @ rng.normal(size=4) + rng.normal(size=40)
    return Objective(kind, rows, (targets > 0).astype(float) if kind == "logistic" else targets, l2, weight)


def differences(function: Any, w: np.ndarray) -> np.ndarray:
    return np.array([(function(w + 1e-6 * unit) - function(w - 1e-6 * unit)) / 2e-6 for unit in np.eye(len(w))])


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 50), weight=st.floats(0.5, 2))
@settings(deadline=None, derandomize=True)
def test_derivatives_are_those_of_the_value(kind: Kind, seed: int, weight: float) -> None:
    objective, w = an_objective(kind, seed, weight=weight), np.random.default_rng(seed).normal(size=4)
    assert objective.gradient(w) == pytest.approx(differences(objective.value, w), rel=1e-4, abs=1e-5)
    assert objective.hessian(w) == pytest.approx(differences(objective.gradient, w), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 50), scale=st.floats(0, 100))
@settings(deadline=None, derandomize=True)
def test_no_hessian_is_outside_the_bounds(kind: Kind, seed: int, scale: float) -> None:
    objective = an_objective(kind, seed)
    spectrum = np.linalg.eigvalsh(objective.hessian(scale * np.random.default_rng(seed).normal(size=4)))
    assert objective.convexity * (1 - 1e-9) <= spectrum[0]
    assert spectrum[-1] <= objective.smoothness * (1 + 1e-9)


def test_the_bounds_are_reached() -> None:
    squares, logistic = an_objective("least-squares"), an_objective("logistic")
    spectrum = np.linalg.eigvalsh(squares.hessian(np.zeros(4)))
    assert (squares.convexity, squares.smoothness) == pytest.approx((spectrum[0], spectrum[-1]))
    assert logistic.smoothness == pytest.approx(np.linalg.eigvalsh(logistic.hessian(np.zeros(4)))[-1])
    assert logistic.convexity == 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("l2", [1e-6, 1e-2, 10.0])
def test_at_the_optimum_there_is_no_slope(kind: Kind, l2: float) -> None:
    objective = an_objective(kind, l2=l2)
    assert np.linalg.norm(objective.gradient(objective.optimum)) < 1e-12
    assert np.array_equal(objective.optimum, an_objective(kind, l2=l2).optimum)


def test_optima_are_those_of_scikit_learn() -> None:
    squares, logistic = an_objective("least-squares"), an_objective("logistic")
    ridge = Ridge(alpha=0.1 * 40, fit_intercept=False).fit(squares.rows, squares.targets)
    assert squares.optimum == pytest.approx(ridge.coef_, rel=1e-9)
    theirs = LogisticRegression(C=1 / (0.1 * 40), fit_intercept=False, tol=1e-12, max_iter=10_000)
    assert logistic.optimum == pytest.approx(theirs.fit(logistic.rows, logistic.targets).coef_[0], rel=1e-5)


def test_even_an_optimum_far_away_is_found() -> None:
    """Two examples that a line tells apart, and next to no penalty."""
    objective = Objective("logistic", np.array([[1.0, 0.0], [-1.0, 0.1]]) * 50, np.array([1.0, 0.0]), 1e-9)
    assert np.linalg.norm(objective.gradient(objective.optimum)) < 1e-12


def test_the_penalty_for_a_condition() -> None:
    for kind in KINDS:
        rows = an_objective(kind).rows
        penalty = l2_for(kind, rows, 50)
        objective = Objective(kind, rows, np.zeros(40), penalty)
        assert objective.smoothness / penalty == pytest.approx(50)
        assert objective.smoothness / objective.convexity <= 50 * (1 + 1e-9)


def test_without_a_penalty_it_depends_on_the_rows() -> None:
    assert (
        np.linalg.norm(an_objective("least-squares", l2=0).gradient(an_objective("least-squares", l2=0).optimum))
        < 1e-12
    )
    twice = np.column_stack([np.arange(5.0), np.arange(5.0)])
    with pytest.raises(ConfigError, match=r"singular.*set l2 above zero"):
        _ = Objective("least-squares", twice, np.arange(5.0), 0.0).optimum
    with pytest.raises(ConfigError, match="singular"):
        _ = an_objective("logistic", l2=0).optimum
