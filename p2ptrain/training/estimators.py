"""Gradient estimators that follow the median of the gradients of microbatches, where a mean follows their outliers.

Schaipp, Garrigos, Simsekli and Gower (2024, arXiv:2402.12828): clipping is a stochastic proximal point for a median.
With a loss D, a step tau and one gradient g at a time,

    m <- argmin_x D(x - g) + |x - m|^2 / (2 tau)

is m + clip(g - m, tau) for D the norm, whose minimum is the geometric median; m + clamp(g - m, -tau, tau) for the sum
of absolute values, whose minimum is the median of each coordinate; and a clipped moving average for Huber's loss
between those and the mean.
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

PASSES = 30
"""Over the microbatches, for a median of theirs alone."""


class Estimator(BaseModel):
    """Which one a node uses, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["clip", "clip-components", "huber", "geometric-median"]
    """`geometric-median` is that of one batch's microbatches; the others go on from step to step, in place of a
    momentum."""
    microbatches: int = Field(4, gt=0)
    """Into so many parts a batch is divided; one gradient is computed of each."""
    tau: float = Field(1.0, gt=0)
    """The proximal step: how far one microbatch moves the estimate at most. Of no effect on `geometric-median`."""
    huber: float = Field(1.0, gt=0)
    """Where Huber's loss turns from quadratic to linear."""
    memory: bool = True
    """False: each batch starts from 0, and one microbatch with `clip` is gradient clipping as everyone knows it."""

    @property
    def remembers(self) -> bool:
        return self.memory and self.name != "geometric-median"

    def __call__(self, gradients: Tensor, previous: Tensor | None = None) -> Tensor:
        """(b, d) gradients of microbatches, (d,) the estimate of the step before -> (d,)."""
        if self.name == "geometric-median":
            return geometric_median(gradients)
        start = previous if previous is not None and self.remembers else torch.zeros_like(gradients[0])
        if self.name == "clip":
            return proximal(lambda z: clip(z, self.tau), gradients, start)
        if self.name == "clip-components":
            return proximal(lambda z: z.clamp(-self.tau, self.tau), gradients, start)
        return proximal(lambda z: huber(z, self.tau, self.huber), gradients, start)


def proximal(move: Callable[[Tensor], Tensor], gradients: Tensor, start: Tensor) -> Tensor:
    """m <- m + move(g - m) for each row g of gradients (b, d), from `start` (d,)."""
    estimate = start
    for gradient in gradients:
        estimate = estimate + move(gradient - estimate)
    return estimate


def clip(vector: Tensor, length: float) -> Tensor:
    """(d,), shortened to `length` if it is longer."""
    return vector * (length / torch.linalg.vector_norm(vector).clamp_min(length))


def huber(vector: Tensor, tau: float, threshold: float) -> Tensor:
    """min(tau / (1 + tau), tau threshold / |z|) z: the share of a moving average while z is short, cut when long."""
    norm = torch.linalg.vector_norm(vector)
    return vector * torch.clamp(tau * threshold / norm.clamp_min(torch.finfo(norm.dtype).tiny), max=tau / (1 + tau))


def geometric_median(gradients: Tensor, passes: int = PASSES) -> Tensor:
    """(b, d) -> (d,): the point with the least sum of distances, by proximal steps that become shorter with each pass.

    From the median of each coordinate, which no minority of outliers moves far; the second half of the passes is
    averaged, as the steps of a pass go in circles around their goal."""
    estimate = gradients.median(0).values
    step = float(torch.linalg.vector_norm(gradients - estimate, dim=1).median())
    if step == 0:
        return estimate
    total = torch.zeros_like(estimate)
    for number in range(1, passes + 1):
        for gradient in gradients:
            estimate = estimate + clip(gradient - estimate, step / number)
            if number > passes // 2:
                total += estimate
    return total / (len(gradients) * (passes - passes // 2))
