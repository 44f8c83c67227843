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
from pydantic import Field
from torch import Tensor

from p2ptrain.codecs import Codec, Packet, check_mix, check_sizes, register
from p2ptrain.codecs._buffers import all_finite, check_encodable, check_length, float32, payload_of, view
from p2ptrain.codecs._random import SEEDS, random_words
from p2ptrain.codecs._sparse import (
    DTYPES,
    Values,
    add_at,
    check_like,
    num_kept,
    pack_values,
    remember,
    unpack_values,
)
from p2ptrain.errors import PeerError

HEAD_NBYTES = 8


@register("randk")
class RandK(Codec):
    """4 (or 2 with fp16) bytes per coordinate sent; expected squared error 1 - ratio."""

    ratio: float = Field(0.01, gt=0, le=1)
    """Share of the coordinates that is sent."""
    values: Values = "fp32"
    """How each value is sent."""

    def encode(
        self, vector: Tensor, *, seed: int = 0, memory: Tensor | None = None, like: Packet | None = None
    ) -> Packet:
        vector = float32(vector)
        check_encodable(all_finite(vector))
        if like is not None:
            check_like(like, vector)
            seed = self._seed(like)
        indices = self._draw(seed, vector.numel())
        values = pack_values(vector[indices.to(vector.device)], self.values)
        remember(memory, indices, values)
        head = np.array([seed % SEEDS], "<u8").view(np.uint8)
        return Packet(np.concatenate([head, np.asarray(payload_of(values))]).data, vector.numel())

    def decode(self, packet: Packet) -> Tensor:
        indices, values = self._parts(packet)
        out = torch.zeros(packet.size)
        out[indices] = values
        return out

    def add(self, packet: Packet, out: Tensor, weight: float) -> None:
        check_sizes(out, packet)
        add_at(out, *self._parts(packet), weight)

    def mix(self, own: Tensor, sent: Packet, received: Packet, weight: float, out: Tensor) -> None:
        check_mix(own, sent, received, out)
        if self._seed(sent) != self._seed(received):
            raise PeerError("malformed", "the two ends sent different coordinates")
        indices, theirs = self._parts(received)
        add_at(out.copy_(own), indices, theirs - self._values(sent), weight)

    def max_nbytes(self, size: int) -> int:
        return HEAD_NBYTES + num_kept(size, self.ratio) * DTYPES[self.values].itemsize

    def _parts(self, packet: Packet) -> tuple[Tensor, Tensor]:
        return self._draw(self._seed(packet), packet.size), self._values(packet)

    def _seed(self, packet: Packet) -> int:
        check_length(packet, self.max_nbytes(packet.size))
        return int(view(packet.payload, "<u8", 1)[0])

    def _values(self, packet: Packet) -> Tensor:
        return unpack_values(packet, self.values, num_kept(packet.size, self.ratio), HEAD_NBYTES)

    def _draw(self, seed: int, size: int) -> Tensor:
        """(k,) int64, strictly increasing."""
        kept = num_kept(size, self.ratio)
        bounds = np.arange(kept + 1, dtype=np.uint64) * np.uint64(size) // np.uint64(max(kept, 1))
        words = random_words(seed, kept) >> np.uint64(32)
        offsets = words * np.diff(bounds) >> np.uint64(32)
        return torch.from_numpy((bounds[:-1] + offsets).astype(np.int64))
