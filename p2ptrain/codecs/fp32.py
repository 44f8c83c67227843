"""float32, as it is."""

import torch
from torch import Tensor

from p2ptrain.codecs import Codec, Packet, register
from p2ptrain.errors import PeerError


@register("fp32")
class FP32(Codec):
    """4 bytes per element; encoding and decoding are views, not copies."""

    def encode(
        self, vector: Tensor, *, seed: int = 0, memory: Tensor | None = None, like: Packet | None = None
    ) -> Packet:
        return Packet(memoryview(vector.to("cpu", torch.float32).contiguous().numpy()).cast("B"), vector.numel())

    def decode(self, packet: Packet) -> Tensor:
        if packet.nbytes != 4 * packet.size:
            raise PeerError("malformed", f"{packet.nbytes} bytes for {packet.size} float32")
        return torch.frombuffer(packet.payload, dtype=torch.float32)
