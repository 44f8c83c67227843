"""Self-centred clipping for sparse graphs (ClippedGossip: He et al. 2022, arXiv:2202.01545, Algorithm 1).

    out = own + sum_j W_j clip(x_j - own, tau),  clip(z, tau) = z min(1, tau / |z|)

Weights are 1 / n for everyone, which are the Metropolis weights where all have as many neighbours.
"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from p2ptrain.aggregators import Aggregator, register
from p2ptrain.aggregators._rows import Array, Rows
from p2ptrain.aggregators.centered_clip import clip_factors


@register("self-clip")
class SelfClip(Aggregator):
    """Nobody moves own by more than tau / n, which also holds where the honest are not in the majority.

    Bad vectors move the result by f tau / n at most."""

    pairs: ClassVar[bool] = False
    synchronous: ClassVar[bool] = False
    breakdown: ClassVar[str] = "f < n - 1, by f tau / n"
    cost: ClassVar[str] = "O(n d)"

    f: int = Field(1, ge=0)
    """Bad vectors to stand among the received; matters only to the tau that is chosen."""
    tau: float | None = Field(None, gt=0)
    """Length to which differences from own are cut; null: the f + 1st largest of them, which is no longer than the
    longest honest one."""

    @property
    def min_received(self) -> int:
        return self.f + 1 if self.tau is None else 1

    def weights(self, rows: Rows) -> Array:
        distances = np.sqrt(rows.gram.diagonal())
        tau = self.tau if self.tau is not None else float(np.sort(distances[1:])[-1 - self.f])
        weights = clip_factors(distances, tau) / len(distances)
        weights[0] = 1 - weights[1:].sum()
        return weights
