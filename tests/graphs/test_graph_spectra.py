"""Graphs whose numbers can be had with pencil and paper."""

import math
from math import comb, cos, pi

import numpy as np
import pytest

from p2ptrain import graphs
from p2ptrain.graphs.measures import components, diameter, spectral_gap


def spectrum(name: str, n: int) -> list[float]:
    return sorted(np.linalg.eigvalsh(graphs.make(name, n=n).laplacian()))


def ring_spectrum(n: int) -> list[float]:
    return [2 - 2 * cos(2 * pi * k / n) for k in range(n)]


@pytest.mark.parametrize("n", [3, 4, 9, 64])
def test_ring(n: int) -> None:
    graph = graphs.make("ring", n=n)
    assert spectrum("ring", n) == pytest.approx(sorted(ring_spectrum(n)), abs=1e-9)
    assert graph.chi1() == pytest.approx(1 / (2 - 2 * cos(2 * pi / n)))
    assert graph.chi2() == pytest.approx((n - 1) / n / 2)
    eigenvalues = sorted(abs(1 - value / 3) for value in ring_spectrum(n))
    assert spectral_gap(graph) == pytest.approx(1 - eigenvalues[-2])
    assert diameter(graph) == n // 2


@pytest.mark.parametrize("n", [2, 5, 64])
def test_path(n: int) -> None:
    graph = graphs.make("path", n=n)
    assert spectrum("path", n) == pytest.approx([2 - 2 * cos(pi * k / n) for k in range(n)], abs=1e-9)
    assert graph.chi2() == pytest.approx(1 / 2), "each edge of a tree is all there is between its ends"
    assert diameter(graph) == n - 1


@pytest.mark.parametrize("n", [3, 5, 64])
def test_star(n: int) -> None:
    graph = graphs.make("star", n=n)
    assert spectrum("star", n) == pytest.approx([0] + [1] * (n - 2) + [n], abs=1e-9)
    assert (graph.chi1(), graph.chi2()) == pytest.approx((1, 1 / 2))
    assert spectral_gap(graph) == pytest.approx(1 / n)
    assert diameter(graph) == 2
    assert components(graph, without=[0]) == [[leaf] for leaf in range(1, n)]


@pytest.mark.parametrize("n", [2, 5, 64, 1000])
def test_complete(n: int) -> None:
    graph = graphs.make("complete", n=n)
    assert len(graph.edges) == comb(n, 2)
    assert graph.chi1() == pytest.approx(1 / n)
    assert graph.chi2() == pytest.approx(1 / n, rel=1e-9)
    if n <= 64:
        assert spectrum("complete", n) == pytest.approx([0] + [n] * (n - 1), abs=1e-9)
        assert spectral_gap(graph) == pytest.approx(1)
        assert diameter(graph) == 1
        assert components(graph, without=range(1, n)) == [[0]]


@pytest.mark.parametrize("bits", [1, 2, 4, 6])
def test_hypercube(bits: int) -> None:
    n = 1 << bits
    graph = graphs.make("hypercube", n=n)
    expected = [2.0 * k for k in range(bits + 1) for _ in range(comb(bits, k))]
    assert spectrum("hypercube", n) == pytest.approx(expected, abs=1e-9)
    assert graph.chi1() == pytest.approx(1 / 2)
    assert graph.chi2() == pytest.approx((n - 1) / (n * bits))
    assert spectral_gap(graph) == pytest.approx(2 / (bits + 1))
    assert diameter(graph) == bits


@pytest.mark.parametrize(("height", "width"), [(3, 3), (3, 5), (8, 8)])
def test_torus(height: int, width: int) -> None:
    expected = sorted(a + b for a in ring_spectrum(height) for b in ring_spectrum(width))
    assert spectrum("torus", height * width) == pytest.approx(expected, abs=1e-9)
    assert diameter(graphs.make("torus", n=height * width)) == height // 2 + width // 2


@pytest.mark.parametrize("n", [4, 6, 10, 16, 64])
def test_exponential(n: int) -> None:
    hops = {min(1 << k, n - (1 << k)) for k in range(math.ceil(math.log2(n)))}
    waves = [sum((1 if 2 * hop == n else 2) * (1 - cos(2 * pi * k * hop / n)) for hop in hops) for k in range(n)]
    assert spectrum("exponential", n) == pytest.approx(sorted(waves), abs=1e-9)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_exponential_of_a_power_of_two_has_a_gap_of_two_over_its_logarithm(bits: int) -> None:
    assert spectral_gap(graphs.make("exponential", n=1 << bits)) == pytest.approx(2 / bits)


@pytest.mark.parametrize(("n", "length"), [(4, 3), (16, 3), (17, 4), (5, 4)])
def test_barbell(n: int, length: int) -> None:
    graph = graphs.make("barbell", n=n)
    half = n // 2
    assert len(graph.edges) == 2 * comb(half, 2) + 1 + n % 2
    assert graph.chi2() == pytest.approx(1 / 2), "a bridge is all there is between its ends"
    assert diameter(graph) == length
    assert components(graph, without=[half - 1])[0] == list(range(half - 1))


def test_a_ring_without_two_falls_in_two() -> None:
    assert components(graphs.make("ring", n=8), without={0, 5}) == [[1, 2, 3, 4], [6, 7]]


def test_a_gap_counts_what_swings_too() -> None:
    """Two sides that only know each other swap their difference back and forth: eigenvalues 1, 1/4 and -1/2."""
    sides = graphs.make("edges", edges=[(i, j) for i in (0, 1, 2) for j in (3, 4, 5)])
    assert spectral_gap(sides) == pytest.approx(1 / 2)
