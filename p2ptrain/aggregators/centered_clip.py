"""Centred clipping (Karimireddy et al. 2021, arXiv:2012.10333, Algorithm 2).

    v <- v + (1/n) sum_i clip(x_i - v, tau),  clip(z, tau) = z min(1, tau / |z|)

Descent on a sum of Huber losses: the mean for large tau, near the geometric median for a small one and many iterations.
Meant for momenta or models; whether a momentum is m <- beta m + g or m <- beta m + (1 - beta) g is in the scale of tau.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from p2ptrain.aggregators import Aggregator, register
from p2ptrain.aggregators._rows import Array, Rows
from p2ptrain.aggregators.geometric_median import distances_from


@register("centered-clip")
class CenteredClip(Aggregator):
    """Each vector pulls the centre, for a few times, by no more than tau / n.

    Bad vectors move the result by f iterations tau / n at most, whatever f is."""

    synchronous: ClassVar[bool] = False
    breakdown: ClassVar[str] = "any f, by f iterations tau / n"
    cost: ClassVar[str] = "O(n^2 d)"

    tau: float | None = Field(None, gt=0)
    """Length to which differences from the centre are cut; null: in each iteration their median."""
    iterations: int = Field(3, gt=0, le=10_000)
    centre: Literal["own", "previous"] = "own"
    """`previous`: `own` is the last round's result, where it starts, and has no vote; one's own vector is then one of
    those received."""

    def weights(self, rows: Rows) -> Array:
        num = len(rows.gram)
        votes = np.ones(num) if self.centre == "own" else np.arange(num) > 0
        votes = votes / votes.sum()
        weights = np.zeros(num)
        weights[0] = 1
        for _ in range(self.iterations):
            distances = distances_from(weights, rows.gram)
            tau = float(np.median(distances[1:])) if self.tau is None else self.tau
            pulls = votes * clip_factors(distances, tau)
            weights = (1 - pulls.sum()) * weights + pulls
        return weights


def clip_factors(distances: Array, tau: float) -> Array:
    """(n,) in [0, 1]: min(1, tau / distance)."""
    return tau / np.maximum(distances, max(tau, np.finfo(float).tiny)) if tau else (distances == 0).astype(float)
