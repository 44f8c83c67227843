"""Say the opposite."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from p2ptrain.attacks import Attack, Scene, register
from p2ptrain.attacks._honest import mean_and_deviation


@register("sign-flip")
class SignFlip(Attack):
    """-strength times own, or times the mean of the honest vectors."""

    omniscient: ClassVar[bool] = True

    strength: float = Field(1.0, gt=0)
    """-1 times is sign flipping; 10 was used against gradients."""
    of: Literal["own", "mean"] = "own"

    def __call__(
        self, own: Tensor, seen: Tensor, rng: np.random.Generator, *, to: int = 0, scene: Scene | None = None
    ) -> Tensor:
        base = own if self.of == "own" or len(seen) == 0 else mean_and_deviation(seen, own)[0]
        return -self.strength * base
