"""IEEE half precision: relative error about 4e-8 of the squared norm, for values between 6e-5 and 65504.

Payload: n float16, little-endian.
"""

from math import inf

import torch
from torch import Tensor

from p2ptrain.codecs import Codec, Packet, _cast16, register
from p2ptrain.codecs._kernels import compiled

FORMAT = _cast16.Format(torch.float16, largest=65504.0, largest_bits=0x477FE000, infinity=0x7C00, kernel="half")


@register("fp16")
class FP16(Codec):
    """2 bytes per element; values beyond 65504 are sent as 65504, those below 3e-8 as zero."""

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
