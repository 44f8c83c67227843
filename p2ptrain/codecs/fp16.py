"""IEEE half precision: relative error about 4e-8 of the squared norm, for values between 6e-5 and 65504.

Payload: n float16, little-endian.
"""

import torch

from p2ptrain.codecs import register
from p2ptrain.codecs._cast16 import Cast16


@register("fp16")
class FP16(Cast16):
    """2 bytes per element; values beyond 65504 are sent as 65504, those below 3e-8 as zero."""

    dtype = torch.float16
    largest = 65504.0
    largest_bits = 0x477FE000
    infinity = 0x7C00
    kernel = "half"
