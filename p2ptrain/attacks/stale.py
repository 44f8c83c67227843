"""Say what was true long ago."""

import numpy as np
from pydantic import Field
from torch import Tensor

from p2ptrain.attacks import Attack, Scene, register


@register("stale")
class Stale(Attack):
    """The vector of `age` rounds ago, or the oldest there is: as a replay, or a machine that is far behind."""

    age: int = Field(10, gt=0, le=1000)

    @property
    def memory(self) -> int:
        return self.age

    def __call__(
        self, own: Tensor, seen: Tensor, rng: np.random.Generator, *, to: int = 0, scene: Scene | None = None
    ) -> Tensor:
        history = scene.history if scene is not None else None
        if history is None or len(history) == 0:
            return own.clone()
        return history[max(0, len(history) - self.age)].to(own, copy=True)
