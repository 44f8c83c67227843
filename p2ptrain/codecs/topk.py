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
from torch import Tensor

from p2ptrain.codecs import Packet, register
from p2ptrain.codecs._buffers import Array, array, check_length, view
from p2ptrain.codecs._kernels import compiled
from p2ptrain.codecs._sparse import Sparse
from p2ptrain.errors import PeerError

PAGE = 1 << 16


@register("topk")
class TopK(Sparse):
    """2 + 4 (or 2 with fp16) bytes per coordinate sent; contractive with delta of at least `ratio`."""

    uses_memory = True

    def warm(self, size: float = inf) -> None:
        compiled("sparse", size)

    def _head_nbytes(self, size: int) -> int:
        return 4 * _num_pages(size) + 2 * self._num_kept(size)

    def _choose(self, vector: Tensor, seed: int, memory: Tensor | None, like: Packet | None) -> tuple[Array, Tensor]:
        if like is not None:
            indices = self._coordinates(like)
        else:
            moved = vector if memory is None else vector - memory.to(vector)
            indices = largest(moved, self._num_kept(vector.numel()))
        return _pages_of(array(indices), vector.numel()), indices

    def _coordinates(self, packet: Packet) -> Tensor:
        check_length(packet, self.max_nbytes(packet.size))
        pages, kept = _num_pages(packet.size), self._num_kept(packet.size)
        counts = view(packet.payload, "<u4", pages)
        if counts.sum(dtype=np.uint64) != kept:
            raise PeerError("malformed", f"{counts.sum(dtype=np.uint64)} coordinates where there are {kept}")
        starts = np.repeat(np.arange(pages, dtype=np.int64) * PAGE, counts)
        indices = starts + view(packet.payload, "<u2", kept, 4 * pages)
        if kept and not (indices[-1] < packet.size and (np.diff(indices) > 0).all()):
            raise PeerError("malformed", "coordinates out of order or out of range")
        return torch.from_numpy(indices)


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
