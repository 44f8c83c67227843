"""Multi-Krum (Blanchard et al. 2017, arXiv:1703.02757, section 4)."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from p2ptrain.aggregators import Aggregator, register
from p2ptrain.aggregators._rows import Array, Rows
from p2ptrain.aggregators.krum import krum_scores


@register("multi-krum")
class MultiKrum(Aggregator):
    """The mean of the `keep` vectors, own among the candidates, that have the least Krum scores.

    Scores are computed once; the paper's text leaves open whether to do so anew after each choice."""

    breakdown: ClassVar[str] = "2f + 2 < n"
    cost: ClassVar[str] = "O(n^2 d)"

    f: int = Field(1, ge=0)
    """Bad vectors to stand among the received."""
    keep: int | None = Field(None, gt=0)
    """How many are averaged, n - f at most; null: n - f."""
    others: Literal["n-f-2", "n-f-1"] = "n-f-2"
    """How many of the nearest others count: as in the paper, or one more."""
    squared: bool = True
    """Whether distances are squared before they are added up, as in the paper."""

    @property
    def min_received(self) -> int:
        return 2 * self.f + 2

    def weights(self, rows: Rows) -> Array:
        scores = krum_scores(rows, self.f, self.others, self.squared)
        kept = rows.order(scores)[: min(self.keep or len(scores), len(scores) - self.f)]
        weights = np.zeros(len(scores))
        weights[kept] = 1 / len(kept)
        return weights
