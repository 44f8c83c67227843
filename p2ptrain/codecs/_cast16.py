"""What fp16 and bf16 share: casts that refuse NaN and Inf and stop at the largest finite value."""

from math import inf
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from p2ptrain.codecs import Codec, Packet, check_mix, check_sizes
from p2ptrain.codecs._buffers import (
    Array,
    all_finite,
    array,
    check_decodable,
    check_encodable,
    check_length,
    float32,
    payload_of,
    tensor_view,
    view,
)
from p2ptrain.codecs._kernels import compiled


class Cast16(Codec):
    """Each element as a 16-bit float."""

    dtype: ClassVar[torch.dtype]
    largest: ClassVar[float]
    """Larger magnitudes are sent as this one, where a plain cast would give Inf."""
    largest_bits: ClassVar[int]
    """Its bits as a float32."""
    infinity: ClassVar[int]
    """The bits of infinity in this format."""
    kernel: ClassVar[str]
    """End of the names of its kernels."""

    def encode(
        self, vector: Tensor, *, seed: int = 0, memory: Tensor | None = None, like: Packet | None = None
    ) -> Packet:
        vector = float32(vector)
        size = vector.numel()
        kernels = compiled("cast16", size, vector)
        if kernels is not None:
            payload = np.empty(2 * size, np.uint8)
            top = getattr(kernels, f"encode_{self.kernel}")(array(vector), payload.view("<i2"))
            if top <= self.largest_bits:
                return Packet(payload.data, size)
        check_encodable(all_finite(vector))
        return Packet(payload_of(vector.clamp(-self.largest, self.largest).to(self.dtype)), size)

    def decode(self, packet: Packet) -> Tensor:
        check_length(packet, 2 * packet.size)
        kernels = compiled("cast16", packet.size)
        if kernels is not None:
            self._checked_bits(packet, kernels)
        vector = tensor_view(packet.payload, self.dtype, packet.size).to(torch.float32)
        if kernels is None:
            check_decodable(all_finite(vector))
        return vector

    def add(self, packet: Packet, out: Tensor, weight: float) -> None:
        kernels = compiled("cast16", packet.size, out)
        if kernels is None:
            return super().add(packet, out, weight)
        check_sizes(out, packet)
        getattr(kernels, f"add_{self.kernel}")(array(out), self._checked_bits(packet, kernels), weight)

    def mix(self, own: Tensor, sent: Packet, received: Packet, weight: float, out: Tensor) -> None:
        kernels = compiled("cast16", sent.size, own, out)
        if kernels is None:
            return super().mix(own, sent, received, weight, out)
        check_mix(own, sent, received, out)
        mine, theirs = _bits(sent), self._checked_bits(received, kernels)  # `sent` was checked when it was encoded
        getattr(kernels, f"mix_{self.kernel}")(array(own), mine, theirs, weight, array(out))

    def max_nbytes(self, size: int) -> int:
        return 2 * size

    def warm(self, size: float = inf) -> None:
        compiled("cast16", size)

    def _checked_bits(self, packet: Packet, kernels: Any) -> Array:
        """`_bits`, of finite values only."""
        bits = _bits(packet)
        check_decodable(kernels.largest(bits) < self.infinity)
        return bits


def _bits(packet: Packet) -> Array:
    """(size,) int16, the bits of the payload."""
    check_length(packet, 2 * packet.size)
    return view(packet.payload, "<i2", packet.size)
