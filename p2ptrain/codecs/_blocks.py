"""What int8 and int4 share: a vector is cut into blocks, each sent as a scale and small integers.

The torch operations give bit for bit what the compiled loops give; they serve where there is no numba, and on GPUs.
"""

from collections.abc import Callable
from math import inf
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from p2ptrain.codecs import Codec, Packet, check_mix, check_sizes
from p2ptrain.codecs._buffers import (
    INFINITY,
    Array,
    Buffer,
    all_finite,
    array,
    check_encodable,
    check_length,
    float32,
)
from p2ptrain.codecs._kernels import compiled
from p2ptrain.errors import PeerError

TINY = 2.0**-100
"""Blocks whose largest magnitude is below are sent as zeros, so that no factor overflows."""


class Blockwise(Codec):
    """Which integers, and how they lie in the payload, is each codec's own."""

    granularity = 4096
    family: ClassVar[str]
    """Its module of kernels."""

    block: int

    def encode(
        self, vector: Tensor, *, seed: int = 0, memory: Tensor | None = None, like: Packet | None = None
    ) -> Packet:
        vector = float32(vector)
        payload = np.empty(self.max_nbytes(vector.numel()), np.uint8)
        scales, codes = self._split(payload.data, vector.numel())
        kernels = compiled(self.family, vector.numel(), vector)
        if kernels is None:
            check_encodable(all_finite(vector))
            self._encode_in_torch(vector, seed, scales, codes)
        else:
            check_encodable(self._encode_compiled(kernels, vector, seed, scales, codes) < INFINITY)
        return Packet(payload.data, vector.numel())

    def decode(self, packet: Packet) -> Tensor:
        scales, codes = self._parts(packet)
        kernels = compiled(self.family, packet.size)
        if kernels is None:
            return self._decode_in_torch(scales, codes, packet.size)
        out = torch.empty(packet.size)
        kernels.decode(scales, codes, self.block, array(out))
        return out

    def add(self, packet: Packet, out: Tensor, weight: float) -> None:
        kernels = compiled(self.family, packet.size, out)
        if kernels is None:
            return super().add(packet, out, weight)
        check_sizes(out, packet)
        kernels.add(array(out), *self._parts(packet), self.block, weight)

    def mix(self, own: Tensor, sent: Packet, received: Packet, weight: float, out: Tensor) -> None:
        kernels = compiled(self.family, sent.size, own, out)
        if kernels is None:
            return super().mix(own, sent, received, weight, out)
        check_mix(own, sent, received, out)
        kernels.mix(array(own), *self._parts(sent), *self._parts(received), self.block, weight, array(out))

    def warm(self, size: float = inf) -> None:
        compiled(self.family, size)

    def _parts(self, packet: Packet) -> tuple[Array, Array]:
        """Scales and codes of a packet, checked."""
        check_length(packet, self.max_nbytes(packet.size))
        scales, codes = self._split(packet.payload, packet.size)
        self._check_scales(scales)
        return scales, codes

    def _split(self, payload: Buffer, size: int) -> tuple[Array, Array]:
        """Where scales and codes lie in the payload for so many elements."""
        raise NotImplementedError

    def _check_scales(self, scales: Array) -> None:
        raise NotImplementedError

    def _encode_compiled(self, kernels: Any, vector: Tensor, seed: int, scales: Array, codes: Array) -> int:
        """Fill scales and codes; returns the largest magnitude met, as bits."""
        raise NotImplementedError

    def _encode_in_torch(self, vector: Tensor, seed: int, scales: Array, codes: Array) -> None:
        raise NotImplementedError

    def _decode_in_torch(self, scales: Array, codes: Array, size: int) -> Tensor:
        raise NotImplementedError


def num_blocks(size: int, block: int) -> int:
    return -(-size // block)


def map_rows(function: Callable[..., tuple[Tensor, ...]], block: int, *vectors: Tensor) -> list[Tensor]:
    """Apply `function` to the blocks as the rows of a matrix; the last short block is a matrix of its own.

    The results are flattened and joined, the scales of all blocks before their codes or the like."""
    full = vectors[0].numel() // block * block
    parts = [function(*(each[:full].view(-1, block) for each in vectors))]
    if full < vectors[0].numel():
        parts.append(function(*(each[full:].view(1, -1) for each in vectors)))
    return [torch.cat([result.flatten() for result in results]) for results in zip(*parts, strict=True)]


def absmax_of(rows: Tensor) -> Tensor:
    """(r, m) -> (r, 1)."""
    return rows.abs().amax(dim=1, keepdim=True)


def check_scales(scales: Array, limit: float) -> None:
    """Raise `PeerError` unless all scales are in [0, limit), where `limit` is where decoding would overflow."""
    if scales.size and not scales.max() < limit:  # NaN fails every comparison
        raise PeerError("not-finite", "a block's scale is NaN, Inf or overflows")
    if scales.size and scales.min() < 0:
        raise PeerError("malformed", "a block's scale is negative")
