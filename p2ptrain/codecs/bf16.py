"""bfloat16: the range of float32 with 8 significant bits, relative error at most 2^-9 in each element.

Payload: n bfloat16, little-endian.
"""

import torch

from p2ptrain.codecs import register
from p2ptrain.codecs._cast16 import Cast16


@register("bf16")
class BF16(Cast16):
    """2 bytes per element; unlike fp16 it neither overflows nor loses small values."""

    dtype = torch.bfloat16
    largest = torch.finfo(torch.bfloat16).max
    largest_bits = 0x7F7F0000
    infinity = 0x7F80
    kernel = "bfloat"
