"""Mean around the median (Xie et al. 2018, arXiv:1802.10116, Definition 4)."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from p2ptrain.aggregators import Aggregator, register
from p2ptrain.aggregators._sorting import sort_rows
from p2ptrain.aggregators.median import middle


@register("meamed")
class MeaMed(Aggregator):
    """Of each coordinate the mean of the n - f numbers nearest to the median (of an even n: to the middle of the two).

    No further from the median than the honest number that is furthest from it, in each coordinate."""

    elementwise: ClassVar[bool] = True
    breakdown: ClassVar[str] = "f < n/2"
    cost: ClassVar[str] = "O(d n log^2 n)"

    f: int = Field(1, ge=0)
    """Bad vectors to stand among the received."""

    @property
    def min_received(self) -> int:
        return max(1, 2 * self.f)

    def columns(self, rows: list[Tensor]) -> Tensor:
        # Sorted, the nearest ones stand side by side; wherever they start, they have the n - 2f in the middle, and of
        # the k-th from below and the k-th from above those just one.
        num, f = len(rows), self.f
        ordered = sort_rows(rows, range(num))
        median = middle(ordered[(num - 1) // 2], ordered[num // 2])
        total = torch.zeros_like(median)
        for row in ordered[f : num - f]:
            total.add_(row)
        for low, high in zip(ordered[:f], ordered[num - f :], strict=True):
            total.add_(torch.where(median - low < high - median, low, high))
        return total.div_(num - f)
