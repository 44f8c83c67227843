"""D-PSGD: average with all neighbours and take a gradient step, in rounds (Lian et al. 2017, arXiv:1705.09056).

With nodes whose data differ and a constant learning rate it settles near the optimum, not at it: at a squared distance
that grows with the square of the learning rate.
"""

from torch import Tensor


def step(mixed: Tensor, gradient: Tensor, lr: float) -> Tensor:
    """The next model, (d,): `mixed` is the weighted average of the neighbourhood's models, `gradient` was taken at this
    node's own, so that the two can be had at the same time (Algorithm 1)."""
    return mixed - lr * gradient
