"""A sum of quadratics, one per node, whose optimum is known: what every method must find."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from p2ptrain.seeds import numpy_random


@dataclass(frozen=True)
class Quadratics:
    """f_i(x) = (x - centre_i)^T A_i (x - centre_i) / 2, all different."""

    matrices: Tensor
    """(n, d, d) float64"""
    centres: Tensor
    """(n, d) float64"""
    smoothness: float
    convexity: float

    @property
    def num_nodes(self) -> int:
        return len(self.centres)

    @property
    def optimum(self) -> Tensor:
        pulls = torch.einsum("nij,nj->i", self.matrices, self.centres)
        return torch.linalg.solve(self.matrices.sum(0), pulls)

    def gradients(self, dtype: torch.dtype = torch.float64) -> list[Callable[[Tensor], Tensor]]:
        matrices, centres = self.matrices.to(dtype), self.centres.to(dtype)

        def gradient(node: int) -> Callable[[Tensor], Tensor]:
            return lambda x: matrices[node] @ (x - centres[node])

        return [gradient(node) for node in range(self.num_nodes)]

    def distance(self, points: list[Tensor]) -> float:
        """Mean squared distance to the optimum."""
        return float((torch.stack(points).double() - self.optimum).square().sum(1).mean())


def quadratics(n: int, d: int = 5, condition: float = 10.0, seed: int = 0) -> Quadratics:
    """Each node's eigenvalues go from 1 / condition to 1, along directions of its own."""
    rng = numpy_random(seed, "quadratics", n, d)
    bases = np.linalg.qr(rng.normal(size=(n, d, d))).Q
    matrices = np.einsum("nij,j,nkj->nik", bases, np.geomspace(1 / condition, 1, d), bases)
    centres = rng.normal(scale=3, size=(n, d))
    return Quadratics(torch.from_numpy(matrices), torch.from_numpy(centres), 1.0, 1 / condition)


def starts(problem: Quadratics, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    rng = numpy_random(seed, "starts")
    return list(torch.from_numpy(rng.normal(size=tuple(problem.centres.shape))).to(dtype))
