"""What topk and randk share: some coordinates of a vector are sent, as float32 or float16, the others not at all.

Payload: a head that says which, then the values.
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from p2ptrain.codecs import Codec, Packet, check_mix, check_sizes
from p2ptrain.codecs._buffers import (
    Array,
    all_finite,
    check_decodable,
    check_encodable,
    check_length,
    float32,
    payload_of,
    tensor_view,
    view,
)
from p2ptrain.errors import PeerError

Values = Literal["fp32", "fp16"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class Sparse(Codec):
    """Which coordinates, and how the head says so, is each codec's own."""

    ratio: float = Field(0.01, gt=0, le=1)
    """Share of the coordinates that is sent."""
    values: Values = "fp32"
    """How each value is sent."""

    def encode(
        self, vector: Tensor, *, seed: int = 0, memory: Tensor | None = None, like: Packet | None = None
    ) -> Packet:
        vector = float32(vector)
        check_encodable(all_finite(vector))
        if like is not None and like.size != vector.numel():
            raise PeerError("malformed", f"coordinates of {like.size} elements for a vector of {vector.numel()}")
        head, indices = self._choose(vector, seed, memory, like)
        values = pack_values(vector[indices.to(vector.device)], self.values)
        if memory is not None:
            memory[indices.to(memory.device)] = values.to(memory.device, memory.dtype)
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
        indices, correction = self._coordinates(received), self._values(received) - self._values(sent)
        if not np.array_equal(self._head(sent), self._head(received)):
            raise PeerError("malformed", "the two ends sent different coordinates")
        add_at(out.copy_(own), indices, correction, weight)

    def max_nbytes(self, size: int) -> int:
        return self._head_nbytes(size) + self._num_kept(size) * DTYPES[self.values].itemsize

    def _num_kept(self, size: int) -> int:
        """How many of `size` coordinates are sent: rounded, but at least one."""
        return min(size, max(1, round(self.ratio * size)))

    def _values(self, packet: Packet) -> Tensor:
        """(k,) float32, all finite."""
        check_length(packet, self.max_nbytes(packet.size))
        count, offset = self._num_kept(packet.size), self._head_nbytes(packet.size)
        values = tensor_view(packet.payload, DTYPES[self.values], count, offset).to(torch.float32)
        check_decodable(all_finite(values))
        return values

    def _head(self, packet: Packet) -> Array:
        return view(packet.payload, "u1", self._head_nbytes(packet.size))

    def _head_nbytes(self, size: int) -> int:
        raise NotImplementedError

    def _choose(self, vector: Tensor, seed: int, memory: Tensor | None, like: Packet | None) -> tuple[Array, Tensor]:
        """The head, as bytes, and the coordinates, (k,) int64; those of `like`, if it is given."""
        raise NotImplementedError

    def _coordinates(self, packet: Packet) -> Tensor:
        """(k,) int64, strictly increasing and in range."""
        raise NotImplementedError


def pack_values(values: Tensor, kind: Values) -> Tensor:
    """(k,) finite float32 -> (k,) on the CPU as they are sent; fp16 stops at its largest value."""
    if kind == "fp16":
        values = values.clamp(-65504, 65504)
    return values.to("cpu", DTYPES[kind])


def add_at(out: Tensor, indices: Tensor, values: Tensor, weight: float) -> None:
    """out[indices] += weight * values, for distinct indices."""
    out.index_add_(0, indices.to(out.device), values.mul(weight).to(out.device, out.dtype))
