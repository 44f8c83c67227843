"""Nearest-neighbour averaging around one's own vector (MoNNA: Farhadkhani et al. 2023, section 3.2)."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from p2ptrain.aggregators import Aggregator, register
from p2ptrain.aggregators._rows import Array, Rows


@register("nna")
class NNA(Aggregator):
    """The mean of own and the received without the f that are furthest from own in Euclidean norm.

    No further from own than the furthest honest vector. Every weight is 1 / (n - f), own's too."""

    pairs: ClassVar[bool] = False
    synchronous: ClassVar[bool] = False
    breakdown: ClassVar[str] = "f < n/2; proven to f of about n/11"
    cost: ClassVar[str] = "O(n d)"

    f: int = Field(1, ge=0)
    """Bad vectors to stand among the received."""

    @property
    def min_received(self) -> int:
        return max(1, 2 * self.f)

    def weights(self, rows: Rows) -> Array:
        distances = rows.squared_distances()[0]
        distances[0] = -1  # nobody is nearer to oneself, also not who sent the same
        kept = rows.order(distances)[: len(distances) - self.f]
        weights = np.zeros(len(distances))
        weights[kept] = 1 / len(kept)
        return weights
