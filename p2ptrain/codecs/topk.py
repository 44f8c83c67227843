"""Keep the k coordinates that moved most since they were last sent (top-k with memory, Stich et al. 2018).

Payload, little-endian, for n elements in p = ceil(n / 65536) pages, with k = min(n, max(1, round(ratio * n))):
    p uint32    how many coordinates are in each page; their sum is k
    k uint16    index of each within its page, strictly increasing there
    k float32 or float16, by `values`
Round is to even at one half. Coordinates not sent decode to zero.
"""

from math import inf

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from p2ptrain.codecs import Codec, Packet, check_mix, check_sizes, register
from p2ptrain.codecs._buffers import Array, all_finite, array, check_encodable, check_length, float32, payload_of, view
from p2ptrain.codecs._kernels import compiled
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

PAGE = 1 << 16


@register("topk")
class TopK(Codec):
    """2 + 4 (or 2 with fp16) bytes per coordinate sent; contractive with delta of at least `ratio`."""

    uses_memory = True

    ratio: float = Field(0.01, gt=0, le=1)
    """Share of the coordinates that is sent."""
    values: Values = "fp32"
    """How each value is sent."""

    def encode(
        self, vector: Tensor, *, seed: int = 0, memory: Tensor | None = None, like: Packet | None = None
    ) -> Packet:
        vector = float32(vector)
        check_encodable(all_finite(vector))
        if like is None:
            moved = vector if memory is None else vector - memory.to(vector)
            indices = largest(moved, num_kept(vector.numel(), self.ratio))
        else:
            check_like(like, vector)
            indices = self._coordinates(like)
        values = pack_values(vector[indices.to(vector.device)], self.values)
        remember(memory, indices, values)
        head = _pages_of(array(indices), vector.numel())
        return Packet(np.concatenate([head, np.asarray(payload_of(values))]).data, vector.numel())

    def decode(self, packet: Packet) -> Tensor:
        indices, values = self._coordinates(packet), self._values(packet)
        out = torch.zeros(packet.size)
        out[indices] = values
        return out

    def add(self, packet: Packet, out: Tensor, weight: float) -> None:
        check_sizes(out, packet)
        add_at(out, self._coordinates(packet), self._values(packet), weight)

    def mix(self, own: Tensor, sent: Packet, received: Packet, weight: float, out: Tensor) -> None:
        check_mix(own, sent, received, out)
        indices = self._coordinates(received)
        if not torch.equal(indices, self._coordinates(sent)):
            raise PeerError("malformed", "the two ends sent different coordinates")
        correction = self._values(received) - self._values(sent)
        add_at(out.copy_(own), indices, correction, weight)

    def max_nbytes(self, size: int) -> int:
        return 4 * _num_pages(size) + num_kept(size, self.ratio) * (2 + DTYPES[self.values].itemsize)

    def warm(self, size: float = inf) -> None:
        compiled("sparse", size)

    def _coordinates(self, packet: Packet) -> Tensor:
        """(k,) int64, strictly increasing and in range."""
        check_length(packet, self.max_nbytes(packet.size))
        pages, kept = _num_pages(packet.size), num_kept(packet.size, self.ratio)
        counts = view(packet.payload, "<u4", pages)
        if counts.sum(dtype=np.uint64) != kept:
            raise PeerError("malformed", f"{counts.sum(dtype=np.uint64)} coordinates where there are {kept}")
        starts = np.repeat(np.arange(pages, dtype=np.int64) * PAGE, counts)
        indices = starts + view(packet.payload, "<u2", kept, 4 * pages)
        if kept and not (indices[-1] < packet.size and (np.diff(indices) > 0).all()):
            raise PeerError("malformed", "coordinates out of order or out of range")
        return torch.from_numpy(indices)

    def _values(self, packet: Packet) -> Tensor:
        kept = num_kept(packet.size, self.ratio)
        return unpack_values(packet, self.values, kept, 4 * _num_pages(packet.size) + 2 * kept)


def largest(vector: Tensor, count: int) -> Tensor:
    """(d,) float32 -> (count,) int64 on the CPU, ascending: the largest magnitudes; ties go to the lower index."""
    kernels = compiled("sparse", vector.numel(), vector)
    if kernels is not None:
        indices = np.empty(count, np.int64)
        kernels.largest(array(vector), count, indices)
        return torch.from_numpy(indices)
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    magnitude = vector.abs()
    threshold = magnitude.topk(count).values[-1]
    chosen = magnitude > threshold
    ties = (magnitude == threshold).nonzero()[: count - int(chosen.sum())]
    chosen[ties] = True
    return chosen.nonzero().flatten().cpu()


def _num_pages(size: int) -> int:
    return -(-size // PAGE)


def _pages_of(indices: Array, size: int) -> Array:
    """Ascending indices -> the bytes of the count of each page and of each index in its page."""
    counts = np.bincount(indices >> 16, minlength=_num_pages(size)).astype("<u4")
    return np.concatenate([counts.view(np.uint8), (indices & (PAGE - 1)).astype("<u2").view(np.uint8)])
