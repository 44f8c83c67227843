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
        # Sorted, the nearest ones stand side by side: of the f + 1 windows it is the one that reaches least far.
        num, f = len(rows), self.f
        ordered = sort_rows(rows, range(num))
        median = middle(ordered[(num - 1) // 2], ordered[num // 2])
        low, high = self._ends(ordered)
        best = middle_sum = _sum(ordered[f : num - f], rows[0])
        reach = torch.full_like(median, torch.inf)
        for start in range(f + 1):
            far = torch.maximum(median - ordered[start], ordered[start + num - f - 1] - median)
            total = middle_sum + low[start] + high[start]
            best = torch.where(far < reach, total, best)
            reach = torch.minimum(far, reach)
        return best / (num - f)

    def _ends(self, ordered: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each window, the sum of what it has below and above the n - 2f in the middle, which all have.

        Sums are built up and never taken apart: what was in them would leave its rounding errors."""
        num, f = len(ordered), self.f
        low, high = [torch.zeros_like(ordered[0])], [torch.zeros_like(ordered[0])]
        for index in range(f):
            low.append(low[-1] + ordered[f - 1 - index])
            high.append(high[-1] + ordered[num - f + index])
        return low[::-1], high


def _sum(rows: list[Tensor], like: Tensor) -> Tensor:
    total = torch.zeros_like(like)
    for row in rows:
        total.add_(row)
    return total
