"""What an evaluation measures: how the loss changes along its noise."""

from collections.abc import Callable

from torch import Tensor

from p2ptrain.strategies.spsa.arithmetic.lattice import FRACTION_BITS, Lattice
from p2ptrain.strategies.spsa.arithmetic.noise import Evaluation


def slope(
    lattice: Lattice, evaluation: Evaluation, eps: float, loss_at: Callable[[Tensor], float], out: Tensor
) -> float:
    """[f(x + eps z) - f(x - eps z)] / (2 eps), Spall 1992; `loss_at` gets the weights in `out`, in its dtype."""
    step = round(eps * 2**FRACTION_BITS)
    lattice.perturbed(evaluation, step, out)
    above = loss_at(out)
    lattice.perturbed(evaluation, -step, out)
    return (above - loss_at(out)) / (2 * eps)
