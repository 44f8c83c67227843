"""The coordinate-wise trimmed mean (Yin et al. 2018, arXiv:1803.01498, Definition 2)."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from p2ptrain.aggregators import Aggregator, register
from p2ptrain.aggregators._sorting import sort_rows


@register("trimmed-mean")
class TrimmedMean(Aggregator):
    """Of each coordinate the mean without the f least and the f largest of the n numbers.

    Between the least and the largest honest number of each coordinate. What is cut away is never part of a sum, so it
    costs no accuracy however large it is."""

    elementwise: ClassVar[bool] = True
    breakdown: ClassVar[str] = "f < n/2"
    cost: ClassVar[str] = "O(d n log^2 n)"

    f: int = Field(1, ge=0)
    """Bad vectors to stand among the received."""

    @property
    def min_received(self) -> int:
        return max(1, 2 * self.f)

    def columns(self, rows: list[Tensor]) -> Tensor:
        kept = range(self.f, len(rows) - self.f)
        ordered = sort_rows(rows, kept)
        total = ordered[kept[0]] / len(kept)
        for index in kept[1:]:
            total.add_(ordered[index], alpha=1 / len(kept))
        return total
