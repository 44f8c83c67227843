"""Parameters as integers: steps along noise add up exactly, in any order, on any device.

A parameter is a 64-bit integer in units of 2^-40. Sums are modulo 2^64, so that they commute even should somebody's
steps overflow. Float weights are the integers rounded once; nothing ever goes the other way after the start.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p2ptrain.errors import ConfigError
from p2ptrain.strategies.spsa.arithmetic.noise import BLOCK, Evaluation, Key, kernels, signs_on

FRACTION_BITS = 40
UNIT = 2.0**-FRACTION_BITS
LARGEST = 2.0**22
"""Of a weight at the start: one half of what the integers hold."""
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Steps:
    """How far to go against the noise of each of m evaluations."""

    evaluations: NDArray[np.uint32]
    """(m, 3): round, slot, sample."""
    sizes: NDArray[np.int64]
    """(m,) in units."""

    def __len__(self) -> int:
        return len(self.sizes)

    @staticmethod
    def join(parts: "list[Steps]") -> "Steps":
        if not parts:
            return Steps(np.empty((0, 3), np.uint32), np.empty(0, np.int64))
        return Steps(np.concatenate([part.evaluations for part in parts]), np.concatenate([p.sizes for p in parts]))


class Lattice:
    """The integer vector of one replica, (d,) int64 on any device."""

    def __init__(self, key: Key, values: Tensor) -> None:
        assert values.dtype == torch.int64
        assert values.is_contiguous()
        self.key, self.values = key, values

    @staticmethod
    def of(key: Key, weights: Tensor) -> "Lattice":
        """The integers nearest to (d,) weights. Raises `ConfigError` if any is not finite or beyond 2^22."""
        values = torch.empty(weights.numel(), dtype=torch.int64, device=weights.device)
        for where in _chunks(weights.numel()):
            part = weights[where].double()
            if not bool((part.abs() <= LARGEST).all()):
                raise ConfigError(
                    f"one-byte training needs weights within +-{LARGEST:g}: some are larger or not finite"
                )
            values[where] = (part * 2.0**FRACTION_BITS).round().long()
        return Lattice(key, values)

    def clone(self) -> "Lattice":
        return Lattice(self.key, self.values.clone())

    def subtract(self, steps: Steps) -> None:
        """values -= sum of size * noise; all of it in one pass over memory."""
        compiled = kernels() if self.values.is_cpu else None
        if compiled is None:
            return self._subtract_in_torch(steps)
        padding = -len(steps) % 4
        columns = np.pad(steps.evaluations, ((0, padding), (0, 0))).T.astype(np.uint32, order="C")
        sizes = np.pad(steps.sizes, (0, padding))
        compiled.subtract(self.values.numpy(), *map(np.uint32, self.key), np.uint32(0), *columns, sizes)

    def weights(self, out: Tensor) -> None:
        """Fill `out`, (d,) of any floating dtype and device."""
        self.perturbed(Evaluation(0, 0, 0), 0, out)

    def perturbed(self, evaluation: Evaluation, step: int, out: Tensor) -> None:
        """Fill `out` with the weights at values + step * noise: summed in integers, so there is nothing to restore."""
        compiled = kernels() if self.values.is_cpu and out.is_cpu else None
        if compiled is None or out.dtype != torch.float32 or not out.is_contiguous():
            return self._perturbed_in_torch(evaluation, step, out)
        name = map(np.uint32, (*self.key, 0, *evaluation))
        compiled.perturbed(self.values.numpy(), *name, step, np.float32(UNIT), out.detach().numpy())

    def digest(self) -> bytes:
        """SHA-256 of the exact integers, little-endian, in order."""
        digest = hashlib.sha256()
        for where in _chunks(self.values.numel()):
            digest.update(self.values[where].cpu().numpy().astype("<i8", copy=False).data)
        return digest.digest()

    def _subtract_in_torch(self, steps: Steps) -> None:
        for where in _chunks(self.values.numel()):
            part = self.values[where]
            for name, size in zip(steps.evaluations.tolist(), steps.sizes.tolist(), strict=True):
                part -= size * self._noise(Evaluation(*name), where)

    def _perturbed_in_torch(self, evaluation: Evaluation, step: int, out: Tensor) -> None:
        for where in _chunks(self.values.numel()):
            part = self.values[where]
            if step:
                part = part + step * self._noise(evaluation, where)
            out[where] = (part.float() * UNIT).to(out.dtype)

    def _noise(self, evaluation: Evaluation, where: slice) -> Tensor:
        """The noise of one chunk, int64 where the values are."""
        return signs_on(self.values.device, self.key, evaluation, where.stop - where.start, where.start // BLOCK)


def _chunks(size: int) -> Iterator[slice]:
    """Bound what temporary copies take. Each begins with a block of noise."""
    for start in range(0, size, _CHUNK):
        yield slice(start, min(start + _CHUNK, size))
