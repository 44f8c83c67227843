"""Blockwise linear 8 bits: rint(127 x / absmax) of each block.

Payload, little-endian, for n elements in b = ceil(n / block) blocks, the last of which may be short:
    b float32   scale of each block, absmax / 127 (0 where absmax < 2^-100; at most just under 2^121); not negative
    n int8      codes, rint(x * (127 / absmax)) in float32 arithmetic, ties to even; -128 is never sent but legal
Element i decodes to scale[i // block] * code[i].

With stochastic rounding the code is floor(x * (127 / absmax) + (r + 1/2) / 65536), at most 127, where r are the 16-bit
pieces, lowest first, of the words in `_random.py`.
"""

from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from p2ptrain.codecs import register
from p2ptrain.codecs._blocks import TINY, Blockwise, absmax_of, check_scales, map_rows, num_blocks
from p2ptrain.codecs._buffers import Array, Buffer, array, view
from p2ptrain.codecs._random import random_words

SCALE_LIMIT = 2.0**121


@register("int8")
class Int8(Blockwise):
    """8.125 bits per element; squared error 4.8e-5 of the squared norm on Gaussian values, 1.0e-4 on Laplace."""

    family = "int8"

    block: int = Field(256, ge=8, le=65536)
    """Elements that share a scale: smaller is more exact, 32 / block bits per element more."""
    stochastic: bool = False
    """Round up or down at random so that the mean is exact; twice the squared error."""

    def max_nbytes(self, size: int) -> int:
        return 4 * num_blocks(size, self.block) + size

    def _split(self, payload: Buffer, size: int) -> tuple[Array, Array]:
        blocks = num_blocks(size, self.block)
        return view(payload, "<f4", blocks), view(payload, "i1", size, 4 * blocks)

    def _check_scales(self, scales: Array) -> None:
        check_scales(scales, SCALE_LIMIT)

    def _encode_compiled(self, kernels: Any, vector: Tensor, seed: int, scales: Array, codes: Array) -> int:
        if not self.stochastic:
            return kernels.encode(array(vector), self.block, scales, codes)
        return kernels.encode_stochastic(array(vector), _noise(seed, codes.size), self.block, scales, codes)

    def _encode_in_torch(self, vector: Tensor, seed: int, scales: Array, codes: Array) -> None:
        def quantise(rows: Tensor, up: Tensor | None = None) -> tuple[Tensor, Tensor]:
            absmax = absmax_of(rows)
            usable = absmax >= TINY
            factor = torch.where(usable, 127 / absmax, 0)
            scale = torch.where(usable, (absmax / 127).clamp(max=SCALE_LIMIT - 2.0**97), 0)
            scaled = rows * factor
            code = scaled.round() if up is None else (scaled + up).floor().clamp(max=127)
            return scale, code.to(torch.int8)

        vectors = [vector]
        if self.stochastic:
            noise = torch.from_numpy(_noise(seed, codes.size).astype(np.float32))
            vectors.append(((noise + 0.5) * 2.0**-16).to(vector.device))
        made = map_rows(quantise, self.block, *vectors)
        scales[:], codes[:] = array(made[0].cpu()), array(made[1].cpu())

    def _decode_in_torch(self, scales: Array, codes: Array, size: int) -> Tensor:
        return torch.from_numpy(np.repeat(scales, self.block)[:size] * codes)


def _noise(seed: int, size: int) -> Array:
    """(size,) 16 random bits each."""
    return random_words(seed, -(-size // 4)).view("<u2")[:size]
