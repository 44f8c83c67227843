"""Send random coordinates, one from each of k equal stretches of the vector; both ends draw them from the seed.

Payload, little-endian, for n elements, with k = min(n, max(1, round(ratio * n))), rounded to even at one half:
    1 uint64    seed
    k float32 or float16, by `values`
Stretch j is [floor(j n / k), floor((j + 1) n / k)); its coordinate is its start plus floor(w_j m / 2^32), where m is
its length and w_j the upper half of word j of `_random.py`. So each coordinate is as likely as every other, to
rounding, none is sent twice, and no index is sent at all. Coordinates not sent decode to zero, and values are not
scaled up: what is averaged is coordinates.
"""

import numpy as np
import torch
from torch import Tensor

from p2ptrain.codecs import Packet, register
from p2ptrain.codecs._buffers import Array, check_length, view
from p2ptrain.codecs._random import SEEDS, random_words
from p2ptrain.codecs._sparse import Sparse

HEAD_NBYTES = 8


@register("randk")
class RandK(Sparse):
    """4 (or 2 with fp16) bytes per coordinate sent; expected squared error 1 - ratio."""

    def _head_nbytes(self, size: int) -> int:
        return HEAD_NBYTES

    def _choose(self, vector: Tensor, seed: int, memory: Tensor | None, like: Packet | None) -> tuple[Array, Tensor]:
        seed = seed % SEEDS if like is None else self._seed(like)
        return np.array([seed], "<u8").view(np.uint8), self._draw(seed, vector.numel())

    def _coordinates(self, packet: Packet) -> Tensor:
        return self._draw(self._seed(packet), packet.size)

    def _seed(self, packet: Packet) -> int:
        check_length(packet, self.max_nbytes(packet.size))
        return int(view(packet.payload, "<u8", 1)[0])

    def _draw(self, seed: int, size: int) -> Tensor:
        """(k,) int64, strictly increasing."""
        kept = self._num_kept(size)
        bounds = np.arange(kept + 1, dtype=np.uint64) * np.uint64(size) // np.uint64(max(kept, 1))
        words = random_words(seed, kept) >> np.uint64(32)
        offsets = words * np.diff(bounds) >> np.uint64(32)
        return torch.from_numpy((bounds[:-1] + offsets).astype(np.int64))
