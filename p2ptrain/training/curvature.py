"""How much a loss curves, most and least: power iteration on products with its Hessian (Pearlmutter 1994)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

STEPS = 100
TOLERANCE = 1e-4


def extremes(loss: Tensor, parameters: Sequence[Tensor], seed: int = 0) -> tuple[float, float]:
    """The largest and the smallest eigenvalue of the Hessian of `loss`, (), a function of `parameters`, here.

    Estimates from within: the largest may be a little larger, the smallest a little smaller."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        pieces = zip(vector.split([each.numel() for each in parameters]), parameters, strict=True)
        parts = [piece.view_as(each) for piece, each in pieces]
        found = torch.autograd.grad(gradients, parameters, parts, retain_graph=True, materialize_grads=True)
        return torch.cat([each.reshape(-1) for each in found])

    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(sum(each.numel() for each in parameters), generator=generator).to(parameters[0].device)
    largest = _power(product, start)
    # Of the Hessian turned upside down, the largest is this minus the smallest.
    # Where all are equal that is nothing but rounding, of either sign.
    return largest, largest - max(0.0, _power(lambda vector: largest * vector - product(vector), start))


def _power(product: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """The eigenvalue of largest magnitude, of a symmetric matrix given by its products with vectors, (d,)."""
    vector, value = start / torch.linalg.vector_norm(start), 0.0
    for _ in range(STEPS):
        image = product(vector)
        before, value = value, float(vector @ image)
        norm = torch.linalg.vector_norm(image)
        if float(norm) == 0.0 or abs(value - before) <= TOLERANCE * abs(value):
            break
        vector = image / norm
    return value
