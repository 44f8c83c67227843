"""The coordinate-wise median (Yin et al. 2018, arXiv:1803.01498, Definition 1)."""

from typing import ClassVar, Literal

from torch import Tensor

from p2ptrain.aggregators import Aggregator, register
from p2ptrain.aggregators._sorting import sort_rows


@register("median")
class Median(Aggregator):
    """Of each coordinate the middle one of the n numbers.

    Between the least and the largest honest number of each coordinate, as long as the bad are fewer than half."""

    elementwise: ClassVar[bool] = True
    breakdown: ClassVar[str] = "f < n/2"
    cost: ClassVar[str] = "O(d n log^2 n)"

    even: Literal["mean", "lower", "upper"] = "mean"
    """Of an even n: the mean of the two in the middle, or one of them."""

    def columns(self, rows: list[Tensor]) -> Tensor:
        num = len(rows)
        low, high = (num - 1) // 2, num // 2
        if self.even != "mean":
            low = high = low if self.even == "lower" else high
        ordered = sort_rows(rows, {low, high})
        return ordered[low].clone() if low == high else middle(ordered[low], ordered[high])


def middle(low: Tensor, high: Tensor) -> Tensor:
    """(low + high) / 2 that is finite when they are."""
    return (0.5 * low).add_(high, alpha=0.5)
