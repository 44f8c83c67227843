"""bfloat16: the range of float32 with 8 significant bits, relative error at most 2^-9 in each element.

Payload: n bfloat16, little-endian.
"""

from math import inf

import torch
from torch import Tensor

from p2ptrain.codecs import Codec, Packet, _cast16, register
from p2ptrain.codecs._kernels import compiled

FORMAT = _cast16.Format(
    torch.bfloat16,
    largest=torch.finfo(torch.bfloat16).max,
    largest_bits=0x7F7F0000,
    infinity=0x7F80,
    kernel="bfloat",
)


@register("bf16")
class BF16(Codec):
    """2 bytes per element; unlike fp16 it neither overflows nor loses small values."""

    def encode(
        self, vector: Tensor, *, seed: int = 0, memory: Tensor | None = None, like: Packet | None = None
    ) -> Packet:
        return _cast16.encode(vector, FORMAT)

    def decode(self, packet: Packet) -> Tensor:
        return _cast16.decode(packet, FORMAT)

    def add(self, packet: Packet, out: Tensor, weight: float) -> None:
        _cast16.add(self, FORMAT, packet, out, weight)

    def mix(self, own: Tensor, sent: Packet, received: Packet, weight: float, out: Tensor) -> None:
        _cast16.mix(self, FORMAT, own, sent, received, weight, out)

    def max_nbytes(self, size: int) -> int:
        return 2 * size

    def warm(self, size: float = inf) -> None:
        compiled("cast16", size)
