"""Say anything."""

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from p2ptrain.attacks import Attack, Scene, register


@register("noise")
class Noise(Attack):
    """Independent random numbers: `normal` with deviation `scale`, or `uniform` between 0 and `scale`."""

    distribution: Literal["normal", "uniform"] = "normal"
    scale: float = Field(1.0, gt=0)
    around: Literal["zero", "own"] = "zero"
    """Whether they are all there is, or are added to the truth."""

    def __call__(
        self, own: Tensor, seen: Tensor, rng: np.random.Generator, *, to: int = 0, scene: Scene | None = None
    ) -> Tensor:
        draw = rng.standard_normal if self.distribution == "normal" else rng.random
        noise = torch.from_numpy(draw(own.shape[0], dtype=np.float32)).to(own) * self.scale
        return noise if self.around == "zero" else own + noise
