"""From slopes to bytes to steps."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.strategies.spsa.arithmetic.rule import STEP_MAX, Rule, next_exponent, quantise


@pytest.mark.parametrize(
    ("slope", "byte"), [(0.0, 0), (1.0, 64), (-1.0, -64), (0.0234375, 2), (1e9, 127), (float("-inf"), -127)]
)
def test_a_slope_becomes_the_nearest_byte(slope: float, byte: int) -> None:
    assert quantise(slope, -6) == byte


def test_nan_is_no_byte() -> None:
    with pytest.raises(ValueError, match="NaN"):
        quantise(float("nan"), 0)


@given(st.floats(1e-9, 1e3), st.floats(0, 1e3), st.integers(0, 2**32 - 1), st.integers(-40, 40), st.integers(1, 10_000))
def test_steps_are_the_exact_rate_rounded(lr: float, final: float, number: int, exponent: int, count: int) -> None:
    rule = Rule(lr=lr, final_lr=final, rounds=100)
    got = rule.step_size(number, exponent, count)
    share = Fraction(min(number, 100), 100)
    exact = (Fraction(lr) + (Fraction(final) - Fraction(lr)) * share) * Fraction(2) ** (exponent + 40) / count
    if exact > STEP_MAX + 2:
        assert got == STEP_MAX
    else:
        # Rates are held to 2^-64, of which a large scale makes more than half a unit.
        assert abs(got - exact) <= Fraction(1, 2) + Fraction(2) ** (exponent + 40 - 64) * 2


@pytest.mark.parametrize(
    ("median", "change"), [(11, 0), (21, 0), (22, 1), (10, -1), (1, -4), (126, 3), (127, 4), (0, -4)]
)
def test_the_scale_follows_the_median(median: int, change: int) -> None:
    assert next_exponent(3, median) == 3 + change
    assert next_exponent(40, median) <= 40


def test_everything_agreed_is_in_the_identity() -> None:
    base = Rule().identify("run", b"model", b"start")
    others = [
        Rule(lr=2e-3).identify("run", b"model", b"start"),
        Rule().identify("other", b"model", b"start"),
        Rule().identify("run", b"other", b"start"),
        Rule().identify("run", b"model", b"other"),
    ]
    assert len({base, *others}) == 5
    assert base == Rule().identify("run", b"model", b"start")
