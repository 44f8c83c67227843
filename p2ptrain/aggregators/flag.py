"""The Flag Aggregator (Almasi et al. 2023, arXiv:2302.05865): project onto the subspace that most vectors agree on.

Of the directions u_i = g_i / |g_i|, an orthonormal Y of r columns is to minimise

    sum_i sqrt(1 - |Y^T u_i|^2) + lam / (n (n - 1)) sum_{i != j} sqrt(1 - |Y^T (g_i - g_j)|^2 / |g_i - g_j|^2)

by iteratively reweighted least squares. The vectors span n dimensions at most, so all of it happens there, on an exact
copy of their geometry that their inner products give, for any lam in O(n^4) per iteration and no further look at d.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import AliasChoices, Field

from p2ptrain.aggregators import Aggregator, register
from p2ptrain.aggregators._rows import Array, Rows

EPSILON = 1e-7
"""Keeps the weight of a vector that lies in the subspace finite, as in the published program."""


@register("flag")
class Flag(Aggregator):
    """median_i |g_i| (1/n) Y Y^T sum_i u_i: no longer than the median vector, whatever the others' lengths.

    The published program leaves the length at about n / r; here the vectors' own scale is restored. It starts with all
    weights equal. A large r lets outliers in: where honest vectors point the same way, one direction is enough for
    them, and the others go to the outliers. Nor does the paper look at lengths, so that few liars who agree on a
    direction outweigh honest vectors that are mostly noise; with `discount` those count less that are too long."""

    breakdown: ClassVar[str] = "no bound proven; f < n/2 in length"
    cost: ClassVar[str] = "O(n^2 d)"

    r: int | None = Field(None, gt=0)
    """Dimensions of the subspace, the paper's m, there (n + 1) / 2; null: the fewest that hold half of the squared
    length of more than half of the vectors."""
    lam: float = Field(0.0, ge=0, validation_alias=AliasChoices("lam", "lambda"))
    """How much differences between vectors count."""
    iterations: int = Field(5, gt=0, le=1000)
    discount: bool = True
    """A vector c > 1 times as long as the median one counts 1 / c, in the first sum and in what is projected; false:
    as in the paper, all count the same."""
    origin: Literal["zero", "own"] = "zero"
    """`zero` is for gradients and other updates; `own` aggregates the differences from own, as models want."""

    def weights(self, rows: Rows) -> Array:
        products = rows.products() if self.origin == "zero" else rows.gram
        lengths = np.sqrt(np.maximum(products.diagonal(), 0))
        # Directions first: beside one vector that is 1e9 times longer, nothing would be left of the others' geometry.
        inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        directions = _embed(products * np.outer(inverse, inverse))
        points = lengths[:, None] * directions
        pairs = _pair_directions(points) if self.lam else points[:0]
        typical, counts = np.median(lengths), np.ones_like(lengths)
        if self.discount:
            np.divide(typical, lengths, out=counts, where=lengths > typical)
        basis = self._subspace(directions, counts, pairs)
        target = typical / len(points) * basis @ (basis.T @ (counts @ directions))
        weights = inverse * (np.linalg.pinv(directions.T, rcond=1e-9) @ target)
        if self.origin == "own":
            weights[0] = 1 - weights[1:].sum()
        return weights

    def _subspace(self, directions: Array, counts: Array, pairs: Array) -> Array:
        """(n, r) orthonormal."""
        num = len(directions)
        all_directions = np.concatenate([directions, pairs])
        factors = np.concatenate([counts, np.full(len(pairs), 2 * self.lam / (num * (num - 1)))])
        weights, r = factors, self.r or _fewest(directions, counts)
        basis = _leading(all_directions, weights)[:, :r]
        for _ in range(self.iterations - 1):
            explained = ((all_directions @ basis) ** 2).sum(1)
            weights = factors / np.sqrt(np.abs(1 - explained) + EPSILON)
            basis = _leading(all_directions, weights)[:, :r]
        return basis


def _embed(products: Array) -> Array:
    """(n, n): n points in n dimensions with these inner products."""
    values, vectors = np.linalg.eigh(products)
    return vectors * np.sqrt(np.maximum(values, 0))


def _pair_directions(points: Array) -> Array:
    """(n (n - 1) / 2, n) unit vectors between the points; those of equal points are left out."""
    above = np.triu_indices(len(points), 1)
    differences = points[above[0]] - points[above[1]]
    lengths = np.sqrt((differences**2).sum(1, keepdims=True))
    apart = lengths[:, 0] > 1e-6 * np.abs(points).max()
    return differences[apart] / lengths[apart]


def _leading(directions: Array, weights: Array) -> Array:
    """Eigenvectors of sum_i w_i u_i u_i^T, as columns, the largest eigenvalue's first."""
    _, vectors = np.linalg.eigh(directions.T @ (weights[:, None] * directions))
    return vectors[:, ::-1]


def _fewest(directions: Array, counts: Array) -> int:
    """The least r for which the first r principal directions explain half of more than half of the vectors."""
    vectors = _leading(directions, counts)
    explained = ((directions @ vectors) ** 2).cumsum(1)
    num_explained = counts @ (explained >= 0.5 * explained[:, -1:])
    return 1 + int(np.argmax(num_explained > counts.sum() / 2))
