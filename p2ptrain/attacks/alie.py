"""A little is enough (Baruch et al. 2019, arXiv:1902.06156, Algorithm 3)."""

from statistics import NormalDist
from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from p2ptrain.attacks import Attack, Scene, register
from p2ptrain.attacks._honest import mean_and_deviation
from p2ptrain.attacks._search import strongest


@register("alie")
class ALIE(Attack):
    """mean - strength times the standard deviation of the honest, coordinate by coordinate: well among them, but all
    lies on the same side."""

    omniscient: ClassVar[bool] = True

    strength: float | None = Field(None, ge=0)
    """The paper's z; null: the one that does most harm to the recipient's rule, or the paper's when that is unknown."""

    def __call__(
        self, own: Tensor, seen: Tensor, rng: np.random.Generator, *, to: int = 0, scene: Scene | None = None
    ) -> Tensor:
        if len(seen) == 0:
            return own.clone()
        mean, deviation = mean_and_deviation(seen, own)
        scene, strength = scene or Scene(), self.strength
        if strength is None and scene.rule is None:
            strength = largest_unsuspicious(len(seen) + scene.liars, scene.liars)
        elif strength is None:
            strength = strongest(lambda z: mean - z * deviation, seen.to(own), to, scene)
        return mean - strength * deviation


def largest_unsuspicious(num: int, num_liars: int) -> float:
    """The z at which enough honest vectors are still further out than the lie for it to be in the majority:
    Phi^-1((n - l - s) / (n - l)) with s = floor(n / 2 + 1) - l, at least 0."""
    honest = num - num_liars
    supporters = num // 2 + 1 - num_liars
    share = min(max((honest - supporters) / honest, 0.5), 1 - 1e-9)
    return NormalDist().inv_cdf(share)
