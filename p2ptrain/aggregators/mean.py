"""The plain mean: no defence against anyone."""

from typing import ClassVar

import numpy as np
from torch import Tensor

from p2ptrain.aggregators import Aggregator, Plan, register
from p2ptrain.aggregators._rows import Rows


@register("mean")
class Mean(Aggregator):
    """(own + sum of received) / n. One liar moves it anywhere."""

    elementwise: ClassVar[bool] = True
    synchronous: ClassVar[bool] = False
    breakdown: ClassVar[str] = "0"
    cost: ClassVar[str] = "O(n d)"

    def columns(self, rows: list[Tensor]) -> Tensor:
        total = rows[0] / len(rows)  # before they are added up: the sum of what is finite may not be
        for row in rows[1:]:
            total.add_(row, alpha=1 / len(rows))
        return total

    def plan(self, rows: Rows) -> Plan:
        return Plan(np.full((1, len(rows.gram)), 1 / len(rows.gram)))  # inside another rule: a sum, not sums of sums
