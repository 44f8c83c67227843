"""Say what an honest node says, again (Karimireddy et al. 2022, arXiv:2006.09365, section 3)."""

from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from p2ptrain.attacks import Attack, Scene, register


@register("mimic")
class Mimic(Attack):
    """The same honest node's vector in every round: it counts for more than it should, and where data differ from node
    to node that is enough. Nothing tells such a lie from the truth."""

    omniscient: ClassVar[bool] = True

    row: int = Field(0, ge=0)
    """Whose, among those that are seen."""

    def __call__(
        self, own: Tensor, seen: Tensor, rng: np.random.Generator, *, to: int = 0, scene: Scene | None = None
    ) -> Tensor:
        return own.clone() if len(seen) == 0 else seen[self.row % len(seen)].to(own, copy=True)
