"""Say nothing in as many words."""

import numpy as np
import torch
from torch import Tensor

from p2ptrain.attacks import Attack, Scene, register


@register("zero")
class Zero(Attack):
    """All zeros."""

    def __call__(
        self, own: Tensor, seen: Tensor, rng: np.random.Generator, *, to: int = 0, scene: Scene | None = None
    ) -> Tensor:
        return torch.zeros_like(own)
