"""From slopes to bytes to steps."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.strategies.spsa.arithmetic.rule import (
    STEP_MAX,
    Rule,
    bounded,
    codes_of,
    exponent_for,
    low_median,
    parts_of,
    quantise,
    sizes_of,
)

BYTES = bytes(byte % 256 for byte in range(-127, 128))


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
@pytest.mark.parametrize("exponent", [-30, 0, 3])
def test_the_scale_follows_the_median(median: int, change: int, exponent: int) -> None:
    sizes = sizes_of(codes_of(bytes([median, 256 - median if median else 0, 0, 127]), exponent))
    assert exponent_for(low_median(sizes[:2].tolist())) == exponent + change
    assert -40 <= exponent_for(float(sizes_of(codes_of(bytes([median]), 40))[0])) <= 40


@pytest.mark.parametrize("exponent", [-40, -1, 0, 1, 40])
def test_a_code_is_a_byte_and_its_scale(exponent: int) -> None:
    said, exponents = parts_of(codes_of(BYTES, exponent))
    assert said.tolist() == list(range(-127, 128))
    assert set(exponents.tolist()) == {exponent}


@given(st.integers(-127, 127), st.integers(-40, 40), st.integers(-40, 40))
def test_a_slope_counts_as_it_was_said_up_to_the_bound(byte: int, exponent: int, bound: int) -> None:
    said, scale = (int(part[0]) for part in bounded(codes_of(bytes([byte % 256]), exponent), bound))
    largest = 127 * Fraction(2) ** bound
    assert said * Fraction(2) ** scale == max(-largest, min(largest, byte * Fraction(2) ** exponent))
    assert -127 <= said <= 127
    assert np.int8(said) == said


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
