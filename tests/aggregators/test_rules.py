"""Each rule beside a plain numpy version in float64, written from its paper."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from p2ptrain import aggregators
from p2ptrain.aggregators import _kernels
from p2ptrain.aggregators._rows import measure
from p2ptrain.aggregators._sorting import _merge_exchange, _network, sort_rows

Rows = NDArray[np.float64]


def sample(num: int, size: int, seed: int = 0, outliers: int = 2) -> Tensor:
    rows = torch.randn(num, size, generator=torch.Generator().manual_seed(seed))
    rows[-outliers:] *= 20
    return rows


def distances(x: Rows) -> Rows:
    return np.array([[np.linalg.norm(a - b) for b in x] for a in x])


def krum_scores(x: Rows, f: int, others: int, power: int) -> Rows:
    return np.array([sum(sorted(row**power)[1 : 1 + others]) for row in distances(x)])


def nna(x: Rows, f: int) -> Rows:
    return x[np.argsort(distances(x)[0])[: len(x) - f]].mean(0)


def krum(x: Rows, f: int) -> Rows:
    return x[krum_scores(x, f, len(x) - f - 2, 2).argmin()]


def krum_unsquared(x: Rows, f: int) -> Rows:
    return x[krum_scores(x, f, len(x) - f - 1, 1).argmin()]


def multi_krum(x: Rows, f: int) -> Rows:
    return x[krum_scores(x, f, len(x) - f - 2, 2).argsort()[: len(x) - f]].mean(0)


def trimmed_mean(x: Rows, f: int) -> Rows:
    return np.sort(x, 0)[f : len(x) - f].mean(0)


def meamed(x: Rows, f: int) -> Rows:
    order = np.abs(x - np.median(x, 0)).argsort(0)[: len(x) - f]
    return np.take_along_axis(x, order, 0).mean(0)


def geometric_median(x: Rows, f: int) -> Rows:
    z = np.median(x, 0)
    for _ in range(3000):
        weights = 1 / np.maximum(np.linalg.norm(x - z, axis=1), 1e-12)
        z = weights @ x / weights.sum()
    return z


def clip(z: Rows, tau: float) -> Rows:
    return z * min(1, tau / np.linalg.norm(z)) if z.any() else z


def centered_clip(x: Rows, f: int) -> Rows:
    v = x[0]
    for _ in range(3):
        v = v + np.mean([clip(each - v, 4.0) for each in x], 0)
    return v


def centered_clip_previous(x: Rows, f: int) -> Rows:
    v = x[0]
    for _ in range(2):
        tau = np.median(np.linalg.norm(x[1:] - v, axis=1))
        v = v + np.mean([clip(each - v, tau) for each in x[1:]], 0)
    return v


def self_clip(x: Rows, f: int) -> Rows:
    tau = np.sort(np.linalg.norm(x[1:] - x[0], axis=1))[-1 - f]
    return x[0] + sum(clip(each - x[0], tau) for each in x[1:]) / len(x)


def nearest_mixing(x: Rows, f: int) -> Rows:
    return np.array([x[np.argsort(row)[: len(x) - f]].mean(0) for row in distances(x)])


def flag(x: Rows, f: int, r: int = 2, lam: float = 0.0, iterations: int = 5, discount: bool = True) -> Rows:
    """Singular vectors of the vectors themselves, as the published program finds them; pairs as in the paper."""
    n, lengths = len(x), np.linalg.norm(x, axis=1)
    u, counts = x / lengths[:, None], np.minimum(1, np.median(lengths) / lengths) if discount else np.ones(n)
    pairs = [(x[i] - x[j]) / np.linalg.norm(x[i] - x[j]) for i, j in itertools.permutations(range(n), 2)] if lam else []
    every, factors = np.array([*u, *pairs]), np.array([*counts, *[lam / (n * (n - 1))] * len(pairs)])
    weights = factors
    for _ in range(iterations):
        basis = np.linalg.svd((every * np.sqrt(weights)[:, None]).T, full_matrices=False)[0][:, :r]
        weights = factors / np.sqrt(np.abs(1 - ((every @ basis) ** 2).sum(1)) + 1e-7)
    return np.median(lengths) / n * basis @ (basis.T @ (counts @ u))


CASES: list[tuple[dict[str, Any], Callable[[Rows, int], Rows]]] = [
    ({"name": "mean"}, lambda x, f: x.mean(0)),
    ({"name": "median"}, lambda x, f: np.median(x, 0)),
    ({"name": "median", "even": "lower"}, lambda x, f: np.sort(x, 0)[(len(x) - 1) // 2]),
    ({"name": "median", "even": "upper"}, lambda x, f: np.sort(x, 0)[len(x) // 2]),
    ({"name": "trimmed-mean", "f": 2}, trimmed_mean),
    ({"name": "meamed", "f": 2}, meamed),
    ({"name": "nna", "f": 2}, nna),
    ({"name": "krum", "f": 2}, krum),
    ({"name": "krum", "f": 2, "others": "n-f-1", "squared": False}, krum_unsquared),
    ({"name": "multi-krum", "f": 2}, multi_krum),
    ({"name": "geometric-median", "iterations": 1000}, geometric_median),
    ({"name": "centered-clip", "tau": 4.0}, centered_clip),
    ({"name": "centered-clip", "centre": "previous", "iterations": 2}, centered_clip_previous),
    ({"name": "self-clip", "f": 2}, self_clip),
    ({"name": "flag", "r": 2}, flag),
    ({"name": "flag", "r": 2, "discount": False}, lambda x, f: flag(x, f, discount=False)),
    ({"name": "flag", "r": 3, "lam": 40.0}, lambda x, f: flag(x, f, 3, 40.0)),
    ({"name": "flag", "r": 1, "iterations": 1}, lambda x, f: flag(x, f, 1, iterations=1)),
    ({"name": "nnm", "f": 2, "rule": "mean"}, lambda x, f: nearest_mixing(x, f).mean(0)),
    ({"name": "nnm", "f": 2, "rule": "trimmed-mean"}, lambda x, f: trimmed_mean(nearest_mixing(x, f), f)),
    ({"name": "nnm", "f": 2, "rule": "krum"}, lambda x, f: krum(nearest_mixing(x, f), f)),
    ({"name": "nnm", "f": 2, "rule": "flag"}, lambda x, f: flag(nearest_mixing(x, f), f, 1)),
]


@pytest.mark.parametrize("num", [7, 10, 19])
@pytest.mark.parametrize(("options", "reference"), CASES, ids=lambda each: str(each) if isinstance(each, dict) else "")
def test_it_is_what_the_paper_says(options: dict[str, Any], reference: Callable[[Rows, int], Rows], num: int) -> None:
    for size in (1, 40, 3000):
        if size == 1 and num % 2 == 0 and options["name"] == "geometric-median":
            continue  # all between the two in the middle are one
        rows = sample(num, size, seed=num)
        if options["name"] in ("flag", "nnm"):
            rows = rows + 1  # so that honest vectors have a direction in common
        out = aggregators.parse(options)(rows[0], rows[1:]).double().numpy()
        expected = reference(rows.double().numpy(), 2)
        np.testing.assert_allclose(out, expected, rtol=2e-4, atol=2e-5 * float(rows.abs().max()))


def test_bucketing_is_the_rule_on_means_of_some_partition() -> None:
    rows = sample(6, 30)
    out = aggregators.make("bucketing", size=2, rule="median")(rows[0], rows[1:])
    found = 0
    for order in itertools.permutations(range(1, 6)):
        means = torch.stack([rows[0], *(rows[list(order[k : k + 2])].mean(0) for k in (0, 2, 4))])
        ordered = means.sort(0).values
        found += torch.allclose(out, (ordered[1] + ordered[2]) / 2, atol=1e-6)
    assert found == 2**3, "one partition: two pairs in any order, written in any order, and one that is left over"


def test_buckets_change_with_what_is_in_the_vectors() -> None:
    rule = aggregators.make("bucketing", size=2, rule={"name": "krum", "f": 0})
    results = {
        round(float(rule(rows[0], rows[1:])[0] / rows[0, 0]), 3) for rows in (sample(9, 4, seed) for seed in range(9))
    }
    assert len(results) > 1


def test_self_clipping_leaves_those_nearer_than_tau_alone() -> None:
    rows = sample(6, 50, outliers=1)
    out = aggregators.make("self-clip", tau=1e6)(rows[0], rows[1:])
    torch.testing.assert_close(out, rows.mean(0), rtol=1e-5, atol=1e-5)
    near = aggregators.make("self-clip", tau=0.1)(rows[0], rows[1:])
    assert torch.dist(near, rows[0]) <= 0.1 * 5 / 6 + 1e-6


def test_clipping_with_a_small_tau_ends_at_the_geometric_median() -> None:
    rows = sample(9, 20)
    clipped = aggregators.make("centered-clip", tau=0.01, iterations=10_000)(rows[0], rows[1:])
    median = aggregators.make("geometric-median", iterations=1000)(rows[0], rows[1:])
    torch.testing.assert_close(clipped, median, rtol=0, atol=1e-3)


def test_nearest_in_float32_though_all_share_a_large_part() -> None:
    generator = torch.Generator().manual_seed(3)
    common = 50 * torch.randn(20_000, generator=generator)
    spread = torch.linspace(1e-3, 2e-3, 30)[:, None] * torch.randn(30, 20_000, generator=generator)
    rows = torch.cat([common[None], common + spread])
    exact = rows.double()
    nearest = (exact - exact[0]).norm(dim=1).argsort()[:21]
    out = aggregators.make("nna", f=10)(rows[0], rows[1:])
    torch.testing.assert_close(out, exact[nearest].mean(0).float(), rtol=2e-7, atol=1e-5)
    chosen = aggregators.make("krum", f=10)(rows[0], rows[1:])
    best = krum_scores(exact.numpy(), 10, 19, 2).argmin()
    assert torch.equal(chosen, rows[best])


@pytest.mark.parametrize("num", [3, 8, 19])
def test_without_numba_it_is_the_same(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sample(num, 20_000)
    compiled = measure(rows[0], rows[1:], pairs=True)[0]
    monkeypatch.setattr(_kernels, "load", lambda: None)
    plain = measure(rows[0], rows[1:], pairs=True)[0]
    np.testing.assert_allclose(compiled.gram, plain.gram, rtol=1e-5, atol=1e-5 * float(plain.gram.max()))
    np.testing.assert_allclose(compiled.toward, plain.toward, rtol=1e-5, atol=1e-5 * float(plain.gram.max()))
    assert compiled.square == pytest.approx(plain.square, rel=1e-5)
    exact = (rows[1:] - rows[0]).double()
    np.testing.assert_allclose(compiled.gram[1:, 1:], exact @ exact.T, rtol=1e-4, atol=1e-5 * float(plain.gram.max()))


@pytest.mark.parametrize("size", [1e3, 1e5, 1e8, 1e30])
@pytest.mark.parametrize("name", ["trimmed-mean", "meamed"])
def test_outliers_cost_no_accuracy(name: str, size: float) -> None:
    rows = sample(10, 5000, outliers=1)
    rows[-2:] = size * rows[-2:].sign()
    out = aggregators.make(name, f=2)(rows[0], rows[1:])
    expected = (trimmed_mean if name == "trimmed-mean" else meamed)(rows.double().numpy(), 2)
    np.testing.assert_allclose(out.double().numpy(), expected, atol=1e-6)


def test_flag_does_not_follow_outliers_that_honest_vectors_have_nothing_to_do_with() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(500, generator=generator)
    rows = truth + 0.3 * torch.randn(10, 500, generator=generator)
    rows[8:] = 40 * torch.randn(2, 500, generator=generator)

    def cosine(out: Tensor) -> float:
        return float(torch.cosine_similarity(out, rows[:8].mean(0), dim=0))

    default, wide = (aggregators.make("flag", r=r)(rows[0], rows[1:]) for r in (None, 6))
    assert cosine(default) > 0.995
    assert cosine(wide) < cosine(default), "five directions more than the honest need are there for the outliers"
    assert torch.linalg.vector_norm(default) <= rows[:8].norm(dim=1).max()


def test_flag_is_not_outvoted_by_few_long_vectors_that_agree() -> None:
    """Uniform random numbers are all positive and so point one way; honest gradients late on are mostly noise."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(2000, generator=generator)
    rows = truth + 4 * torch.randn(15, 2000, generator=generator)
    rows[12:] = 300 * torch.rand(3, 2000, generator=generator)

    def cosine(r: int | None, discount: bool) -> float:
        out = aggregators.make("flag", r=r, discount=discount)(rows[0], rows[1:])
        return float(torch.cosine_similarity(out, rows[:12].mean(0), dim=0))

    assert min(cosine(r, discount=True) for r in (None, 1)) > 0.9
    assert cosine(1, discount=False) < 0.1, "as in the paper, the direction is that of three of fifteen"


@pytest.mark.parametrize("num", range(1, 26))
def test_the_network_sorts(num: int) -> None:
    # A network that sorts all zeros and ones sorts everything (Knuth, 5.3.4); the many are drawn.
    rng = np.random.default_rng(num)
    columns = itertools.product((0.0, 1.0), repeat=num) if num <= 12 else rng.integers(0, 2, (4000, num))
    rows = list(torch.tensor(np.array(list(columns), dtype=np.float32)).T)
    assert torch.equal(torch.stack(sort_rows(rows, range(num))), torch.stack(rows).sort(0).values)


def test_of_twenty_rows_the_network_takes_so_many_comparisons() -> None:
    assert len(list(_merge_exchange(20))) == 97
    assert len(_network(20, frozenset({9, 10}))) < 97


@given(num=st.integers(1, 15), data=st.data())
def test_wanted_rows_are_sorted_whatever_becomes_of_the_others(num: int, data: st.DataObject) -> None:
    wanted = data.draw(st.sets(st.integers(0, num - 1), min_size=1))
    values = st.floats(width=32, allow_nan=False)
    rows = [torch.tensor(data.draw(st.lists(values, min_size=5, max_size=5))) for _ in range(num)]
    expected, ordered = torch.stack(rows).sort(0).values, sort_rows(rows, wanted)
    for index in wanted:
        assert torch.equal(ordered[index], expected[index])
