"""The geometric median (RFA: Pillutla et al. 2019, arXiv:1912.13445, Algorithm 2), by Weiszfeld's iteration.

    z <- sum_i b_i x_i / sum_i b_i,  b_i = 1 / max(|x_i - z|, smoothing)

All of it happens among coefficients: z = sum_i a_i x_i, and distances follow from inner products.
"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from p2ptrain.aggregators import Aggregator, register
from p2ptrain.aggregators._rows import Array, Rows


@register("geometric-median")
class GeometricMedian(Aggregator):
    """The point with the least sum of distances to all n vectors.

    No further from the honest mean than 2 (n - f) / (n - 2f) times the honest vector furthest from it is. Starts at
    the mean of the half that is nearest to the vector in the middle, so that the origin plays no part."""

    breakdown: ClassVar[str] = "f < n/2"
    cost: ClassVar[str] = "O(n^2 d)"

    iterations: int = Field(100, gt=0, le=10_000)
    """At most; it ends when nothing changes any more."""
    smoothing: float = Field(1e-6, gt=0)
    """Distances count for at least so much of the median distance at the start."""

    def weights(self, rows: Rows) -> Array:
        weights = _around_the_middle(rows)
        least = self.smoothing * float(np.median(distances_from(weights, rows.gram)))
        for _ in range(self.iterations):
            distances = np.maximum(distances_from(weights, rows.gram), least)
            if not distances.all():  # more than half are one and the same
                return weights
            before, weights = weights, (1 / distances) / (1 / distances).sum()
            if np.abs(weights - before).max() < 1e-9:
                break
        return weights


def distances_from(weights: Array, gram: Array) -> Array:
    """(n,) of all rows from the point sum_i weights_i x_i, given weights that add up to one."""
    along = gram @ weights
    return np.sqrt(np.maximum(weights @ along - 2 * along + gram.diagonal(), 0))


def _around_the_middle(rows: Rows) -> Array:
    distances = np.sqrt(rows.squared_distances())
    middle = rows.order(distances.sum(1))[0]
    nearest = rows.order(distances[middle])[: len(distances) // 2 + 1]
    weights = np.zeros(len(distances))
    weights[nearest] = 1 / len(nearest)
    return weights
