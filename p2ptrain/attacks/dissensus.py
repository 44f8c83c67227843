"""Keep the honest apart (He et al. 2022, arXiv:2202.01545, section 4)."""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from p2ptrain.attacks import Attack, Scene, register
from p2ptrain.attacks._honest import recipient_row


@register("dissensus")
class Dissensus(Attack):
    """x_i - strength * [sum over honest j of W_ij (x_j - x_i)] / [sum over liars k of W_ik] to each recipient i.

    With strength 1 a plain weighted average stays where it is, above it moves away from its neighbours: what the graph
    holds together by few edges falls apart."""

    omniscient: ClassVar[bool] = True
    per_recipient: ClassVar[bool] = True

    strength: float = Field(1.5, gt=0)

    def __call__(
        self, own: Tensor, seen: Tensor, rng: np.random.Generator, *, to: int = 0, scene: Scene | None = None
    ) -> Tensor:
        if len(seen) == 0:
            return own.clone()
        scene = scene or Scene()
        target = seen[recipient_row(scene, to, len(seen))].to(own)
        weights = torch.ones(len(seen)).to(own) if scene.weights is None else scene.weights.to(own)
        liars_weight = float(scene.liars) if scene.liars_weight is None else scene.liars_weight
        pull = weights @ seen.to(own) - weights.sum() * target
        return target - self.strength / liars_weight * pull
