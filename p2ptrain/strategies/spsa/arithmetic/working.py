"""The module's weights: those of the master, but for while a loss is measured. Lives on the compute thread."""

import math

import torch
from torch import Tensor

from p2ptrain.strategies.spsa.arithmetic.lattice import Lattice
from p2ptrain.strategies.spsa.arithmetic.noise import Evaluation
from p2ptrain.strategies.spsa.arithmetic.selection import Selection
from p2ptrain.strategies.spsa.arithmetic.slope import slope
from p2ptrain.training.tasks import Batch
from p2ptrain.training.trainer import DivergedError, Trainer


class Working:
    """What a master's integers mean in a module."""

    def __init__(self, trainer: Trainer, selection: Selection, start: Tensor) -> None:
        """`start`: the run's first flat vector, of which a part is selected."""
        self._trainer, self._selection, self._start = trainer, selection, start
        flat = trainer.replica.flat
        whole = selection.ranges[0] if len(selection.ranges) == 1 else None
        self._view = flat[whole] if whole is not None else None
        self._out = (
            torch.empty(selection.size, dtype=flat.dtype, device=flat.device) if self._view is None else self._view
        )

    def begin(self, lattice: Lattice) -> None:
        """The first weights, what is not selected included, whatever the module holds."""
        self._trainer.replica.flat.copy_(self._start)
        self._start = self._start.new_empty(0)
        self.follow(lattice)

    def follow(self, lattice: Lattice) -> None:
        """The master as it is."""
        replica = self._trainer.replica
        replica.absorb()
        lattice.weights(self._out)
        self._show(self._out)
        replica.publish()

    def measure(self, lattice: Lattice, evaluation: Evaluation, eps: float, batch: Batch) -> tuple[float, float]:
        """The slope along the noise, and the mean of the two losses of a batch, the same on both sides, without
        dropout. Raises `DivergedError` for a slope that is NaN."""
        losses: list[float] = []

        @torch.no_grad()
        def loss_at(weights: Tensor) -> float:
            self._show(weights)
            losses.append(float(self._trainer.loss(batch).float()))
            return losses[-1]

        self._trainer.replica.absorb()
        self._trainer.module.eval()
        try:
            found = slope(lattice, evaluation, eps, loss_at, self._out)
        finally:
            lattice.weights(self._out)
            self._show(self._out)
        if math.isnan(found):
            raise DivergedError(f"evaluation {tuple(evaluation)}: losses {losses}; lower lr or eps")
        return found, sum(losses) / 2

    def _show(self, weights: Tensor) -> None:
        if self._view is None:
            self._selection.scatter(weights, self._trainer.replica.flat)
