"""Nearest-neighbour mixing before another rule (Allouah et al. 2023, arXiv:2302.01772, Algorithm 2)."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from p2ptrain.aggregators import Aggregator, Plan, make, register
from p2ptrain.aggregators._nested import ARule, after, same_f
from p2ptrain.aggregators._rows import Array, Rows


@register("nnm")
class NNM(Aggregator):
    """Replaces each of the n vectors, own too, by the mean of the n - f nearest to it, then applies `rule`.

    Honest vectors come closer together, and a liar that stays near them loses most of what it said."""

    breakdown: ClassVar[str] = "f < n/2, and the rule's own"
    cost: ClassVar[str] = "O(n^2 d), and the rule's own"

    f: int = Field(1, ge=0)
    """Bad vectors to stand among the received."""
    rule: ARule = Field(default_factory=lambda: make("trimmed-mean"))
    """What is applied to the mixed vectors; for the same f unless it says otherwise."""

    @model_validator(mode="before")
    @classmethod
    def _same_f(cls, options: Any) -> Any:
        return same_f(options, default="trimmed-mean")

    @property
    def min_received(self) -> int:
        return max(1, 2 * self.f, self.rule.min_received)

    def plan(self, rows: Rows) -> Plan:
        matrix = _nearest_means(rows, self.f)
        return after(matrix, self.rule.plan(rows.mixed(matrix, rows.keys)))


def _nearest_means(rows: Rows, f: int) -> Array:
    distances = rows.squared_distances()
    np.fill_diagonal(distances, -1)
    matrix = np.zeros_like(distances)
    for row, each in zip(matrix, distances, strict=True):
        kept = rows.order(each)[: len(each) - f]
        row[kept] = 1 / len(kept)
    return matrix
