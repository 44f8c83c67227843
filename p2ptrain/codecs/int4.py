"""Blockwise linear 4 bits: rint(7 x / absmax) of each block, two codes to a byte.

Payload, little-endian, for n elements in b = ceil(n / block) blocks, the last of which may be short:
    b bfloat16      scale of each block, the nearest to absmax / 7 (0 where absmax < 2^-100; at most just under 2^125)
    ceil(n/2) bytes codes; a block of m elements has h = ceil(m / 2) bytes, and its byte j holds element j in the low
                    four bits and element j + h in the high four (8 where there is none), each as 8 + code
The code of x is rint(x * (1 / scale)) in float32 arithmetic, ties to even, within -7..7; -8 is never sent but legal.
An element decodes to scale * code.

The scale is a bfloat16 where others take a float16: updates of 1e-6 would otherwise vanish. It is less exact, but the
codes are computed from the rounded scale, so that little is lost.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from p2ptrain.codecs import register
from p2ptrain.codecs._blocks import TINY, Blockwise, absmax_of, check_scales, map_rows, num_blocks
from p2ptrain.codecs._buffers import Array, Buffer, array, view

SCALE_LIMIT = 2.0**125


@register("int4")
class Int4(Blockwise):
    """4.25 bits per element; squared error 1.2e-2 of the squared norm on Gaussian values, 2.0e-2 on Laplace."""

    family = "int4"

    block: int = Field(64, ge=8, le=65536, multiple_of=2)
    """Elements that share a scale: smaller is more exact, 16 / block bits per element more."""

    def max_nbytes(self, size: int) -> int:
        return 2 * num_blocks(size, self.block) + (size + 1) // 2

    def _split(self, payload: Buffer, size: int) -> tuple[Array, Array]:
        blocks = num_blocks(size, self.block)
        return view(payload, "<i2", blocks), view(payload, "u1", (size + 1) // 2, 2 * blocks)

    def _check_scales(self, scales: Array) -> None:
        check_scales(array(_to_float(scales)), SCALE_LIMIT)

    def _encode_compiled(self, kernels: Any, vector: Tensor, seed: int, scales: Array, codes: Array) -> int:
        return kernels.encode(array(vector), self.block, scales, codes)

    def _encode_in_torch(self, vector: Tensor, seed: int, scales: Array, codes: Array) -> None:
        made = map_rows(_quantise, self.block, vector)
        scales[:], codes[:] = array(made[0].view(torch.int16).cpu()), array(made[1].cpu())

    def _decode_in_torch(self, scales: Array, codes: Array, size: int) -> Tensor:
        nibbles = torch.from_numpy(codes)
        signed = torch.stack([nibbles & 15, nibbles >> 4]).to(torch.float32) - 8
        full = size // self.block * self.block
        whole = signed[:, : full // 2].view(2, -1, self.block // 2).transpose(0, 1).flatten()
        values = torch.cat([whole, signed[:, full // 2 :].flatten()])[:size]
        return _to_float(scales).repeat_interleave(self.block)[:size] * values


def _quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(r, m) float32 -> (r, 1) bfloat16 scales, (r, ceil(m / 2)) uint8 codes."""
    absmax = absmax_of(rows)
    usable = absmax >= TINY
    scale = torch.where(usable, (absmax / 7).clamp(max=SCALE_LIMIT - 2.0**117), 0).to(torch.bfloat16)
    factor = torch.where(usable, 1 / scale.to(torch.float32), 0)
    code = ((rows * factor).round().clamp(-7, 7) + 8).to(torch.uint8)
    half = (rows.shape[1] + 1) // 2
    high = torch.full_like(code[:, :half], 8)
    high[:, : rows.shape[1] - half] = code[:, half:]
    return scale, code[:, :half] | high << 4


def _to_float(scales: Array) -> Tensor:
    """(b,) int16, the bits of bfloat16 -> float32."""
    return torch.from_numpy(scales).view(torch.bfloat16).to(torch.float32)
