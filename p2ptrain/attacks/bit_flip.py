"""Broken memory: some bits are not what they were."""

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from p2ptrain.attacks import Attack, Scene, register


@register("bit-flip")
class BitFlip(Attack):
    """In a share of the float32 numbers one bit is turned over: most do nothing, one in the exponent does everything.

    A number that would not be finite is left as it was, as nobody would take it."""

    share: float = Field(1e-3, gt=0, le=1)
    """Of the coordinates, each chosen independently."""

    def __call__(
        self, own: Tensor, seen: Tensor, rng: np.random.Generator, *, to: int = 0, scene: Scene | None = None
    ) -> Tensor:
        bits = own.float().cpu().numpy().copy().view(np.uint32)
        chosen = np.flatnonzero(rng.random(len(bits)) < self.share)
        turned = bits[chosen] ^ (np.uint32(1) << rng.integers(0, 32, len(chosen), dtype=np.uint32))
        finite = np.isfinite(turned.view(np.float32))
        bits[chosen[finite]] = turned[finite]
        return torch.from_numpy(bits.view(np.float32)).to(own)
