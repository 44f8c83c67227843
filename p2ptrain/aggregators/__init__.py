"""Aggregators combine a node's own vector with received ones: `aggregators.make("nna", f=2)(own, received)`.

Each rule is one file in this folder. All of them come down to a small matrix and a function of columns (see `Plan`):
what the matrix is follows from inner products alone, so it is worked out in float64 on as many rows as there are
vectors, and the vectors themselves are only ever seen chunk by chunk, twice.

In what follows n = 1 + m vectors are combined, own first, of which the rule is to stand f bad ones among the m.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from p2ptrain.aggregators import _chunks, _kernels
from p2ptrain.aggregators._rows import Array, Mask, Rows, measure
from p2ptrain.errors import TooFewError
from p2ptrain.registry import Component, Registry

Columns = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Plan:
    """What a rule does to its vectors: first a linear map of all of them, then a function of each coordinate."""

    matrix: Array
    """(k, n): row i are the coefficients of the i-th mixed vector."""
    columns: Columns | None = None
    """k tensors (chunk,) -> (chunk,); None: there is one mixed vector, and it is the result."""


class Aggregator(Component):
    """(own (d,), received (m, d)) -> (d,), pure.

    Takes any floating dtype on any device, contiguous or not; computes in float32 (float64 for float64) and so returns.
    With nothing received the result is `own`. A received number that is not finite counts as if its sender had sent
    `own` there; rules that are not elementwise take the whole vector so, and also one whose distance from `own` is
    beyond 1e19. It thus uses up one of the f. `own` must be finite.

    Needs no memory beyond the result but O(n^2) and a chunk of each vector.
    """

    elementwise: ClassVar[bool] = False
    """True when each coordinate of the result depends on that coordinate alone: such rules combine chunk by chunk
    while a swap streams; others wait for the whole vector."""
    pairs: ClassVar[bool] = True
    """False when the distances to one's own vector are enough, and those among the received are not measured."""
    synchronous: ClassVar[bool] = True
    """Whether the received are compared with one another, and so should all be of one round; False: they may come one
    at a time, and of any age that is not too far off."""
    breakdown: ClassVar[str] = "unknown"
    """How many bad vectors it stands."""
    cost: ClassVar[str] = "unknown"

    @property
    def min_received(self) -> int:
        """With fewer received vectors, but for none at all, the rule promises nothing and refuses."""
        return 1

    def __call__(self, own: Tensor, received: Tensor) -> Tensor:
        """Raises `TooFewError` with fewer vectors than `min_received`; keep `own` then."""
        _check(own, received)
        with torch.no_grad():
            if len(received) == 0:
                return own.to(_chunks.work_dtype(own), copy=True)
            self.check_enough(len(received))
            if self.elementwise:
                return _chunks.by_columns(self.columns, own, received)
            rows, bad = measure(own, received, self.pairs)
            plan = self.plan(rows)
            matrix = _without(plan.matrix, bad)
            if plan.columns is None:
                return _chunks.weighted_sum(matrix[0], own, received)
            return _chunks.mixed_columns(matrix, plan.columns, own, received)

    @property
    def borne(self) -> int | None:
        """How many liars it is told to bear; None for a rule that has no such number."""
        return getattr(self, "f", None)

    def check_enough(self, num_received: int) -> None:
        if num_received < self.min_received:
            raise TooFewError(self.name, num_received, self.min_received)

    def without(self, liars: int) -> Self:
        """The rule when so many of the `f` that it bears are known, and have no vector among the received."""
        changes: dict[str, Any] = {}
        for field in type(self).model_fields:
            value = getattr(self, field)
            if field == "f":
                changes[field] = max(0, value - liars)
            elif isinstance(value, Aggregator):
                changes[field] = value.without(liars)
        return self.model_copy(update=changes)

    def columns(self, rows: list[Tensor]) -> Tensor:
        """For elementwise rules: n tensors (chunk,), own first -> (chunk,). Must not write to them."""
        raise NotImplementedError

    def weights(self, rows: Rows) -> Array:
        """For all others: the (n,) coefficients of the result."""
        raise NotImplementedError

    def plan(self, rows: Rows) -> Plan:
        """For rules around rules."""
        if self.elementwise:
            return Plan(np.eye(len(rows.gram)), self.columns)
        return Plan(self.weights(rows)[None])

    def warm(self) -> None:
        """Compile or load what the first call would need: seconds the first time, so never inside a deadline."""
        if not self.elementwise and self.pairs:
            _kernels.load()


def _check(own: Tensor, received: Tensor) -> None:
    if own.dim() != 1 or received.dim() != 2 or received.shape[1] != own.shape[0]:
        raise ValueError(f"expected (d,) and (m, d), got {tuple(own.shape)} and {tuple(received.shape)}")
    if not own.is_floating_point() or not received.is_floating_point():
        raise ValueError(f"expected floating-point vectors, got {own.dtype} and {received.dtype}")


def _without(matrix: Array, bad: Mask) -> Array:
    """Rows that count as own are never read: what they would have contributed, own does."""
    if not bad.any():
        return matrix
    matrix = matrix.copy()
    matrix[:, 0] += matrix[:, bad].sum(1)
    matrix[:, bad] = 0
    return matrix


registry: Registry[Aggregator] = Registry("aggregator", __name__)
register, make, names, get, parse = registry.register, registry.make, registry.names, registry.get, registry.parse
