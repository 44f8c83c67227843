"""float32, as it is.

Payload: n float32, little-endian.
"""

import torch
from torch import Tensor

from p2ptrain.codecs import Codec, Packet, check_mix, check_sizes, register
from p2ptrain.codecs._buffers import (
    all_finite,
    check_decodable,
    check_encodable,
    check_length,
    float32,
    payload_of,
    tensor_view,
)


@register("fp32")
class FP32(Codec):
    """4 bytes per element, exact.

    Views, not copies: the payload of a float32 vector on the CPU is that vector's memory and must not change while the
    packet is in use, and the vector decoded from a writable payload is that payload.
    """

    def encode(
        self, vector: Tensor, *, seed: int = 0, memory: Tensor | None = None, like: Packet | None = None
    ) -> Packet:
        vector = float32(vector).cpu()
        check_encodable(all_finite(vector))
        return Packet(payload_of(vector), vector.numel())

    def decode(self, packet: Packet) -> Tensor:
        vector = self._checked(packet)
        return vector.clone() if memoryview(packet.payload).readonly else vector

    def add(self, packet: Packet, out: Tensor, weight: float) -> None:
        check_sizes(out, packet)
        out.add_(self._checked(packet).to(out.device), alpha=weight)

    def mix(self, own: Tensor, sent: Packet, received: Packet, weight: float, out: Tensor) -> None:
        check_mix(own, sent, received, out)
        # `sent` was checked when it was encoded.
        mine, theirs = self._view(sent), self._checked(received)
        if own.data_ptr() == mine.data_ptr() and own.dtype == out.dtype == torch.float32:
            torch.lerp(own, theirs, weight, out=out)
        else:
            out.copy_(own).add_(torch.sub(theirs, mine).mul_(weight).to(out.device))

    def max_nbytes(self, size: int) -> int:
        return 4 * size

    def _view(self, packet: Packet) -> Tensor:
        """The payload as float32, for reading only."""
        check_length(packet, 4 * packet.size)
        return tensor_view(packet.payload, torch.float32, packet.size)

    def _checked(self, packet: Packet) -> Tensor:
        vector = self._view(packet)
        check_decodable(all_finite(vector))
        return vector
