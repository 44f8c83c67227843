"""What every rule promises, shipped or not."""

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2ptrain import aggregators
from p2ptrain.aggregators import Aggregator
from p2ptrain.errors import ConfigError, TooFewError

anything = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def vectors(num: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(num, size, generator=torch.Generator().manual_seed(seed))


def f_of(rule: Aggregator) -> int:
    return getattr(rule, "f", 1)


def fixed_scale(rule: Aggregator) -> bool:
    return getattr(rule, "tau", None) is not None


def moves_with_its_vectors(rule: Aggregator) -> bool:
    return not (rule.name == "flag" and getattr(rule, "origin", "") == "zero")


def close(one: Tensor, two: Tensor, scale: float = 1.0) -> None:
    torch.testing.assert_close(one, two, rtol=1e-4, atol=3e-5 * scale)


@pytest.mark.parametrize("size", [1, 2, 50, 70_001])
def test_the_order_of_the_received_does_not_matter(rule: Aggregator, size: int) -> None:
    rows = vectors(9, size)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    close(rule(rows[0], rows[1:]), rule(rows[0], rows[1:][order]))


def test_it_goes_where_all_go(rule: Aggregator) -> None:
    rows, shift = vectors(9, 60), 3 * vectors(1, 60, seed=5)[0]
    if rule.name == "bucketing":  # other vectors are shuffled otherwise
        rule = rule.model_copy(update={"size": 1})
    moved = rule(rows[0] + shift, rows[1:] + shift)
    if moves_with_its_vectors(rule):
        close(moved, rule(rows[0], rows[1:]) + shift)
    else:
        assert torch.dist(moved, rule(rows[0], rows[1:]) + shift) > 0.1, "it does, then: say so"


@pytest.mark.parametrize("scale", [1e-3, 0.25, 1e4])
def test_it_grows_as_all_grow(rule: Aggregator, scale: float) -> None:
    rows = vectors(9, 60)
    if rule.name == "bucketing":
        rule = rule.model_copy(update={"size": 1})
    scaled = rule(scale * rows[0], scale * rows[1:])
    if not fixed_scale(rule):
        close(scaled, scale * rule(rows[0], rows[1:]), scale)


def test_nobody_there(rule: Aggregator) -> None:
    own = vectors(1, 7)[0]
    out = rule(own, torch.empty(0, 7))
    assert torch.equal(out, own)
    assert out.data_ptr() != own.data_ptr()


@pytest.mark.parametrize("num", range(1, 8))
def test_too_few_are_refused_by_name_and_just_enough_are_not(rule: Aggregator, num: int) -> None:
    rows = vectors(1 + num, 5)
    if num < rule.min_received:
        with pytest.raises(TooFewError, match=f"{rule.name} needs {rule.min_received} vectors from peers, got {num}"):
            rule(rows[0], rows[1:])
    else:
        out = rule(rows[0], rows[1:])
        assert out.isfinite().all()
        assert torch.linalg.vector_norm(out) <= 2 * torch.linalg.vector_norm(rows, dim=1).max()


@pytest.mark.parametrize("size", [0, 1])
def test_small_vectors(rule: Aggregator, size: int) -> None:
    rows = vectors(8, size)
    out = rule(rows[0], rows[1:])
    assert out.shape == (size,)
    if size:
        assert rows.min() - 1e-6 <= out.item() <= rows.max() + 1e-6


@pytest.mark.parametrize("value", [vectors(1, 100)[0], torch.zeros(100), torch.full((100,), 1e-20)])
def test_when_all_agree_it_agrees(rule: Aggregator, value: Tensor) -> None:
    torch.testing.assert_close(rule(value, value.repeat(7, 1)), value, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_not_finite_counts_as_own(rule: Aggregator, bad: float, whole: bool) -> None:
    rows, where = vectors(9, 300), slice(None) if whole else slice(7, 8)
    broken, plain = rows[1:].clone(), rows[1:].clone()
    broken[3, where] = bad
    as_own = where if rule.elementwise else slice(None)
    plain[3, as_own] = rows[0, as_own]
    out = rule(rows[0], broken)
    assert out.isfinite().all()
    if not (rule.elementwise and math.isinf(bad)):  # where an infinite number is as good as a huge one
        close(out, rule(rows[0], plain))


def test_all_received_may_be_nonsense(rule: Aggregator) -> None:
    own = vectors(1, 20)[0]
    close(rule(own, torch.full((8, 20), math.nan)), own)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_goes_in_and_float32_comes_out(rule: Aggregator, dtype: torch.dtype) -> None:
    rows = vectors(9, 1000).to(dtype)
    out = rule(rows[0], rows[1:])
    assert out.dtype == torch.float32
    close(out, rule(rows[0].float(), rows[1:].float()))
    close(rule(rows[0].float(), rows[1:]), rule(rows[0].float(), rows[1:].float()))


def test_float64_stays_float64(rule: Aggregator) -> None:
    rows = vectors(9, 100).double()
    out = rule(rows[0], rows[1:])
    assert out.dtype == torch.float64
    close(out.float(), rule(rows[0].float(), rows[1:].float()))


def test_strided_and_tracked_vectors(rule: Aggregator) -> None:
    rows = vectors(9, 500)
    expected = rule(rows[0], rows[1:])
    columns = rows.T.contiguous().T
    close(rule(columns[0], columns[1:]), expected)
    wide = torch.zeros(9, 1000)
    wide[:, ::2] = rows
    close(rule(wide[0, ::2], wide[1:, ::2]), expected)
    out = rule(rows[0].clone().requires_grad_(), rows[1:].clone().requires_grad_())
    assert not out.requires_grad
    close(out, expected)


def test_nothing_is_written_to_and_nothing_is_shared(rule: Aggregator) -> None:
    rows = vectors(9, 40_000)
    before = rows.clone()
    out = rule(rows[0], rows[1:])
    out.zero_()
    assert torch.equal(rows, before)


def test_the_same_again(rule: Aggregator) -> None:
    rows = vectors(9, 5000)
    assert torch.equal(rule(rows[0], rows[1:]), rule(rows[0], rows[1:]))


def test_elementwise_rules_can_be_cut_anywhere(rule: Aggregator) -> None:
    rows = vectors(9, 1000)
    rows[4, 10] = math.nan
    whole = rule(rows[0], rows[1:])
    pieces = torch.cat([rule(part[0], part[1:]) for part in rows.split(77, dim=1)])
    assert torch.equal(whole, pieces) == rule.elementwise


LIES = {
    "huge": lambda honest, f: torch.full((f, honest.shape[1]), 1e30),
    "far": lambda honest, f: 1e8 * vectors(f, honest.shape[1], seed=9),
    "zeros": lambda honest, f: torch.zeros(f, honest.shape[1]),
    "the opposite": lambda honest, f: -honest[:f],
    "one honest again": lambda honest, f: honest[3].repeat(f, 1),
    "just outside": lambda honest, f: (honest.mean(0) + 3 * honest.std(0)).repeat(f, 1),
    "nan and inf": lambda honest, f: torch.tensor([math.nan, math.inf] * f)[:f, None].repeat(1, honest.shape[1]),
}


def within(rule: Aggregator, honest: Tensor, lies: Tensor) -> bool:
    """Whether the result is no further from the honest mean than a few times all the honest are together.

    Each rule's own bound, in its docstring, is at most that: coordinates between the honest extremes are no further
    than the root of the sum of squared distances; distances bounded by the furthest honest vector are less; clipping
    adds a length of that order; and Flag is bounded by the length of the median vector."""
    out, mean = rule(honest[0], torch.cat([honest[1:], lies])), honest.mean(0)
    spread = math.sqrt(float((honest - mean).square().sum()))
    if rule.name == "flag":
        spread += float(torch.linalg.vector_norm(honest, dim=1).max())
    if fixed_scale(rule):
        spread += getattr(rule, "tau", 0.0) * getattr(rule, "iterations", 1)
    return bool(torch.dist(out, mean) <= 4 * spread)


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_liars_move_it_no_further_than_the_honest_are_apart(rule: Aggregator, lie: str, offset: float) -> None:
    honest = vectors(9, 200) + offset
    assert within(rule, honest, LIES[lie](honest, f_of(rule))) or rule.name == "mean"


def test_liars_move_the_mean_anywhere() -> None:
    honest = vectors(9, 200)
    assert not within(aggregators.make("mean"), honest, LIES["far"](honest, 1))


@anything
@example(seed=558, size=1, extra=0, power=10.0)
@given(seed=st.integers(0, 1000), size=st.integers(1, 30), extra=st.integers(0, 6), power=st.floats(-3, 17))
def test_liars_of_any_kind_and_number_that_it_is_made_for(
    rule: Aggregator, seed: int, size: int, extra: int, power: float
) -> None:
    f = f_of(rule)
    honest = vectors(max(1 + rule.min_received - f, 2 * f + 1) + extra, size, seed)
    lies = 10.0**power * vectors(f, size, seed + 1)
    assert within(rule, honest, lies) or rule.name == "mean"


def test_configuration_round_trips(rule: Aggregator) -> None:
    assert aggregators.parse(rule.model_dump()) == rule


def test_facts_are_stated(rule: Aggregator) -> None:
    assert rule.cost.startswith("O(")
    assert rule.breakdown != "unknown"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nna", {"f": -1}, "f: "),
        ("flag", {"r": 0}, "r: "),
        ("flag", {"lambda": -1}, "lambda"),
        ("centered-clip", {"tau": 0}, "tau"),
        ("krum", {"others": "n-f-3"}, "others"),
        ("median", {"f": 2}, "f: "),
        ("nnm", {"rule": "colours"}, "unknown aggregator 'colours'"),
        ("nnm", {"rule": {"name": "krum", "f": -2}}, "f: "),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        aggregators.make(name, **options)


@pytest.mark.parametrize(
    ("own", "received"),
    [
        (torch.zeros(3), torch.zeros(2, 4)),
        (torch.zeros(3), torch.zeros(3)),
        (torch.zeros(1, 3), torch.zeros(2, 3)),
        (torch.zeros(3, dtype=torch.int64), torch.zeros(2, 3)),
    ],
)
def test_what_is_no_set_of_vectors_is_a_bug(own: Tensor, received: Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        aggregators.make("mean")(own, received)


def test_known_liars_are_taken_off_inside_too() -> None:
    rule = aggregators.make("nnm", f=3, rule="krum")
    assert rule.without(2) == aggregators.make("nnm", f=1, rule={"name": "krum", "f": 1})
    assert rule.without(9).min_received <= 3
    assert aggregators.make("median").without(2) == aggregators.make("median")
