"""Bucketing before another rule (Karimireddy et al. 2022, arXiv:2006.09365, Algorithm 1)."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from p2ptrain.aggregators import Aggregator, Plan, make, register
from p2ptrain.aggregators._nested import ARule, after, same_f
from p2ptrain.aggregators._rows import Rows


@register("bucketing")
class Bucketing(Aggregator):
    """Shuffles the received, takes the mean of each `size` of them, and applies `rule` to own and these means.

    Honest means differ less than honest vectors; f bad vectors spoil f means at most, so the rule must stand that many
    among fewer. Own stays by itself, as rules may build on its honesty (in the paper it is one of all). The order
    follows from what the vectors hold, own's included, and not from a seed or from who came first."""

    breakdown: ClassVar[str] = "f size < n/2, and the rule's own"
    cost: ClassVar[str] = "O(n^2 d), and the rule's own"

    f: int = Field(1, ge=0)
    """Bad vectors to stand among the received; for the rule inside."""
    size: int = Field(2, gt=0)
    """Vectors per mean; the last one may have fewer."""
    rule: ARule = Field(default_factory=lambda: make("geometric-median"))
    """What is applied to the means; for the same f unless it says otherwise."""

    @model_validator(mode="before")
    @classmethod
    def _same_f(cls, options: Any) -> Any:
        return same_f(options, default="geometric-median")

    @property
    def min_received(self) -> int:
        means = max(1, 2 * self.f, self.rule.min_received)
        return self.size * (means - 1) + 1

    def plan(self, rows: Rows) -> Plan:
        shuffled = 1 + rows.keys[1:].argsort(kind="stable")
        buckets = np.split(shuffled, range(self.size, len(shuffled), self.size))
        matrix = np.zeros((1 + len(buckets), len(rows.keys)))
        matrix[0, 0] = 1
        for row, bucket in zip(matrix[1:], buckets, strict=True):
            row[bucket] = 1 / len(bucket)
        keys = np.array([rows.keys[0], *(rows.keys[bucket[0]] for bucket in buckets)])
        return after(matrix, self.rule.plan(rows.mixed(matrix, keys)))
