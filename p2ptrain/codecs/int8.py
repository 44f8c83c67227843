"""Blockwise linear 8 bits: rint(127 x / absmax) of each block.

Payload, little-endian, for n elements in b = ceil(n / block) blocks, the last of which may be short:
    b float32   scale of each block, absmax / 127 (0 where absmax < 2^-100; at most just under 2^121); not negative
    n int8      codes, rint(x * (127 / absmax)) in float32 arithmetic, ties to even; -128 is never sent but legal
Element i decodes to scale[i // block] * code[i].

With stochastic rounding the code is floor(x * (127 / absmax) + (r + 1/2) / 65536), at most 127, where r are the 16-bit
pieces, lowest first, of the words in `_random.py`.
"""

from math import inf

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from p2ptrain.codecs import Codec, Packet, check_mix, check_sizes, register
from p2ptrain.codecs._blocks import TINY, absmax_of, check_scales, map_rows, num_blocks
from p2ptrain.codecs._buffers import (
    INFINITY,
    Array,
    Buffer,
    all_finite,
    array,
    check_encodable,
    check_length,
    float32,
    view,
)
from p2ptrain.codecs._kernels import compiled
from p2ptrain.codecs._random import random_words

SCALE_LIMIT = 2.0**121


@register("int8")
class Int8(Codec):
    """8.125 bits per element; squared error 4.8e-5 of the squared norm on Gaussian values, 1.0e-4 on Laplace."""

    granularity = 4096

    block: int = Field(256, ge=8, le=65536)
    """Elements that share a scale: smaller is more exact, 32 / block bits per element more."""
    stochastic: bool = False
    """Round up or down at random so that the mean is exact; twice the squared error."""

    def encode(
        self, vector: Tensor, *, seed: int = 0, memory: Tensor | None = None, like: Packet | None = None
    ) -> Packet:
        vector = float32(vector)
        size = vector.numel()
        noise = random_words(seed, -(-size // 4)).view("<u2")[:size] if self.stochastic else None
        payload = np.empty(self.max_nbytes(size), np.uint8)
        scales, codes = self._split(payload.data, size)
        kernels = compiled("int8", size, vector)
        if kernels is None:
            check_encodable(all_finite(vector))
            self._encode_in_torch(vector, noise, scales, codes)
        elif noise is None:
            check_encodable(kernels.encode(array(vector), self.block, scales, codes) < INFINITY)
        else:
            check_encodable(kernels.encode_stochastic(array(vector), noise, self.block, scales, codes) < INFINITY)
        return Packet(payload.data, size)

    def decode(self, packet: Packet) -> Tensor:
        scales, codes = self._parts(packet)
        kernels = compiled("int8", packet.size)
        if kernels is None:
            return torch.from_numpy(np.repeat(scales, self.block)[: packet.size] * codes)
        out = torch.empty(packet.size)
        kernels.decode(scales, codes, self.block, array(out))
        return out

    def add(self, packet: Packet, out: Tensor, weight: float) -> None:
        kernels = compiled("int8", packet.size, out)
        if kernels is None:
            return super().add(packet, out, weight)
        check_sizes(out, packet)
        kernels.add(array(out), *self._parts(packet), self.block, weight)

    def mix(self, own: Tensor, sent: Packet, received: Packet, weight: float, out: Tensor) -> None:
        kernels = compiled("int8", sent.size, own, out)
        if kernels is None:
            return super().mix(own, sent, received, weight, out)
        check_mix(own, sent, received, out)
        kernels.mix(array(own), *self._parts(sent), *self._parts(received), self.block, weight, array(out))

    def max_nbytes(self, size: int) -> int:
        return 4 * num_blocks(size, self.block) + size

    def warm(self, size: float = inf) -> None:
        compiled("int8", size)

    def _parts(self, packet: Packet) -> tuple[Array, Array]:
        """Scales and codes of a packet, checked."""
        check_length(packet, self.max_nbytes(packet.size))
        scales, codes = self._split(packet.payload, packet.size)
        check_scales(scales, SCALE_LIMIT)
        return scales, codes

    def _split(self, payload: Buffer, size: int) -> tuple[Array, Array]:
        blocks = num_blocks(size, self.block)
        return view(payload, "<f4", blocks), view(payload, "i1", size, 4 * blocks)

    def _encode_in_torch(self, vector: Tensor, noise: Array | None, scales: Array, codes: Array) -> None:
        def quantise(rows: Tensor, up: Tensor | None = None) -> tuple[Tensor, Tensor]:
            absmax = absmax_of(rows)
            usable = absmax >= TINY
            factor = torch.where(usable, 127 / absmax, 0)
            scale = torch.where(usable, (absmax / 127).clamp(max=SCALE_LIMIT - 2.0**97), 0)
            scaled = rows * factor
            code = scaled.round() if up is None else (scaled + up).floor().clamp(max=127)
            return scale, code.to(torch.int8)

        vectors = [vector]
        if noise is not None:
            vectors.append(((torch.from_numpy(noise.astype(np.float32)) + 0.5) * 2.0**-16).to(vector.device))
        made = map_rows(quantise, self.block, *vectors)
        scales[:], codes[:] = array(made[0].cpu()), array(made[1].cpu())
