"""Codecs turn a float vector into bytes and back: `codecs.make("int8", block=256).encode(vector)`.

Each codec is one file in this folder. A codec is pure: it keeps no state between calls, and its randomness is the
`seed` it is given. Vectors are split into chunks before encoding (see `p2ptrain.exchange.talk`), so a codec never sees
more than two million elements at a time and may treat each chunk on its own.
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from p2ptrain.errors import PeerError
from p2ptrain.registry import Component, Registry


@dataclass(frozen=True)
class Packet:
    """An encoded vector: what goes over the wire, and how many elements it stands for."""

    payload: bytes | bytearray | memoryview
    size: int

    @property
    def nbytes(self) -> int:
        return len(self.payload)


class Codec(Component):
    """vector -> bytes -> vector.

    Vectors are 1-d tensors in any floating dtype; decoding gives float32 on the CPU. What is decoded comes from the
    network: it raises `PeerError` (`malformed` for a payload that does not fit, `not-finite` for NaN or Inf). Encoding
    a vector that is not finite raises `ValueError`.
    """

    granularity: ClassVar[int] = 1
    """Chunks are cut at multiples of this many elements, so that blocks never straddle two chunks."""

    uses_memory: ClassVar[bool] = False
    """True for sparse codecs: they choose coordinates by how far the vector has moved from `memory`."""

    def encode(
        self, vector: Tensor, *, seed: int = 0, memory: Tensor | None = None, like: Packet | None = None
    ) -> Packet:
        """Encode a (d,) vector.

        seed    makes stochastic rounding and random coordinates repeatable; both ends of an exchange use the same one.
        memory  (d,) float32, what was last sent of each coordinate (zeros when None); sparse codecs send the
                coordinates that moved most since and update it in place: what was not sent stays for later (error
                feedback).
        like    encode on the coordinates of this packet, so that two ends of an exchange average the same ones.
        """
        raise NotImplementedError

    def decode(self, packet: Packet) -> Tensor:
        """The (d,) float32 vector that `packet` stands for; coordinates that were not sent are zero."""
        raise NotImplementedError

    def add(self, packet: Packet, out: Tensor, weight: float) -> None:
        """out += weight * decode(packet), in place, without materialising the decoded vector where that is faster.

        `out` is left as it was when the packet is refused."""
        check_sizes(out, packet)
        out.add_(self.decode(packet).mul(weight).to(out.device))

    def mix(self, own: Tensor, sent: Packet, received: Packet, weight: float, out: Tensor) -> None:
        """out = own + weight * (decode(received) - decode(sent)), the pairwise averaging step; `out` is never `own`.

        Both ends use the vectors as the other side decoded them, so the two corrections cancel to rounding."""
        check_mix(own, sent, received, out)
        correction = torch.sub(self.decode(received), self.decode(sent)).mul_(weight)
        out.copy_(own).add_(correction.to(out.device))

    def max_nbytes(self, size: int) -> int:
        """The longest payload that `size` elements can have; longer ones are refused before they are buffered."""
        raise NotImplementedError

    def warm(self, size: float = inf) -> None:
        """Compile or load what is worth it for vectors of so many elements: seconds the first time, so never inside a
        deadline."""


def check_sizes(out: Tensor, *packets: Packet) -> None:
    """Raise `PeerError` unless every packet stands for as many elements as `out` has."""
    for packet in packets:
        if packet.size != out.numel():
            raise PeerError("malformed", f"a packet of {packet.size} elements for a vector of {out.numel()}")


def check_mix(own: Tensor, sent: Packet, received: Packet, out: Tensor) -> None:
    """`check_sizes` for what `mix` is given: compiled loops do not look where they read."""
    if own.shape != out.shape:
        raise ValueError(f"cannot mix a vector of shape {tuple(own.shape)} into one of {tuple(out.shape)}")
    check_sizes(out, sent, received)


registry: Registry[Codec] = Registry("codec", __name__)
register, make, names, get, parse = registry.register, registry.make, registry.names, registry.get, registry.parse
