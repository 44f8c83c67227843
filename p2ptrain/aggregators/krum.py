"""Krum (Blanchard et al. 2017, arXiv:1703.02757, section 4)."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from p2ptrain.aggregators import Aggregator, register
from p2ptrain.aggregators._rows import Array, Rows


@register("krum")
class Krum(Aggregator):
    """The one vector, own included, whose sum of squared distances to its nearest n - f - 2 others is least.

    An actual vector, and so as noisy as one; published programs differ in the two options."""

    breakdown: ClassVar[str] = "2f + 2 < n"
    cost: ClassVar[str] = "O(n^2 d)"

    f: int = Field(1, ge=0)
    """Bad vectors to stand among the received."""
    others: Literal["n-f-2", "n-f-1"] = "n-f-2"
    """How many of the nearest others count: as in the paper, or one more."""
    squared: bool = True
    """Whether distances are squared before they are added up, as in the paper."""

    @property
    def min_received(self) -> int:
        return 2 * self.f + 2

    def weights(self, rows: Rows) -> Array:
        scores = krum_scores(rows, self.f, self.others, self.squared)
        weights = np.zeros(len(scores))
        weights[rows.order(scores)[0]] = 1
        return weights


def krum_scores(rows: Rows, f: int, others: Literal["n-f-2", "n-f-1"], squared: bool) -> Array:
    """(n,), small for vectors in the middle of many."""
    distances = rows.squared_distances() if squared else np.sqrt(rows.squared_distances())
    num_others = len(distances) - f - (2 if others == "n-f-2" else 1)
    np.fill_diagonal(distances, -1)
    return np.sort(distances, axis=1)[:, 1 : 1 + num_others].sum(1)
