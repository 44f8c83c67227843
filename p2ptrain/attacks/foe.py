"""Fall of empires, or inner product manipulation (Xie et al. 2020, arXiv:1903.03936, section 3)."""

from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from p2ptrain.attacks import Attack, Scene, register
from p2ptrain.attacks._honest import mean_and_deviation
from p2ptrain.attacks._search import strongest


@register("foe")
class FOE(Attack):
    """-strength times the mean of the honest: small enough to pass, and against where they want to go."""

    omniscient: ClassVar[bool] = True

    strength: float | None = Field(None, ge=-1)
    """The paper's epsilon; null: the one from -1, which is the truth, that does most harm to the recipient's rule, or
    0.1 when that is unknown."""

    def __call__(
        self, own: Tensor, seen: Tensor, rng: np.random.Generator, *, to: int = 0, scene: Scene | None = None
    ) -> Tensor:
        if len(seen) == 0:
            return own.clone()
        mean, _ = mean_and_deviation(seen, own)
        scene, strength = scene or Scene(), self.strength
        if strength is None and scene.rule is None:
            strength = 0.1
        elif strength is None:
            strength = strongest(lambda e: (1 - e) * mean, seen.to(own), to, scene) - 1
        return -strength * mean
