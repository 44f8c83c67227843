"""Loops for the int4 codec: `scales` has one bfloat16 (int16 bits) per block; `codes` are its bytes, two elements each.

A block of m elements has h = ceil(m / 2) bytes; byte j holds element j in its low half and element j + h in its high
half, so that both are contiguous runs of elements and the loops vectorise.
"""

import numpy as np

from p2ptrain.codecs._kernels._jit import from_bfloat, from_bits, jit, magnitude, to_bfloat

TINY = np.float32(2.0**-100)
LARGEST = np.float32(7.0)
MAX_SCALE = np.float32(2.0**125 - 2.0**117)
ZERO = np.uint8(8)


@jit("i4(f4[::1], i8, i2[::1], u1[::1])")
def encode(vector, block, scales, codes):
    """Fill scales and codes; return the largest magnitude met, as bits."""
    worst = np.int32(0)
    for b in range(scales.size):
        part = vector[b * block : (b + 1) * block]
        half = (part.size + 1) // 2
        code = codes[b * block // 2 : b * block // 2 + half]
        top = np.int32(0)
        for i in range(part.size):
            top = max(top, magnitude(part[i]))
        worst = max(worst, top)
        absmax = from_bits(top)
        usable = absmax >= TINY
        scales[b] = to_bfloat(min(absmax / LARGEST, MAX_SCALE)) if usable else np.int16(0)
        factor = np.float32(1) / from_bfloat(scales[b]) if usable else np.float32(0)
        low, high = part[:half], part[half:]
        for i in range(high.size):
            first = max(min(np.rint(low[i] * factor), LARGEST), -LARGEST)
            second = max(min(np.rint(high[i] * factor), LARGEST), -LARGEST)
            code[i] = np.uint8(np.int32(first) + 8 + 16 * (np.int32(second) + 8))
        if high.size < half:
            code[half - 1] = np.uint8(np.int32(max(min(np.rint(low[half - 1] * factor), LARGEST), -LARGEST)) + 8 + 128)
    return worst


@jit("void(i2[::1], u1[::1], i8, f4[::1])")
def decode(scales, codes, block, out):
    for b in range(scales.size):
        part = out[b * block : (b + 1) * block]
        half = (part.size + 1) // 2
        code = codes[b * block // 2 : b * block // 2 + half]
        scale = from_bfloat(scales[b])
        low, high = part[:half], part[half:]
        for i in range(low.size):
            low[i] = scale * np.float32(np.int32(code[i] & 15) - 8)
        for i in range(high.size):
            high[i] = scale * np.float32(np.int32(code[i] >> 4) - 8)


@jit("void(f4[::1], i2[::1], u1[::1], i8, f4)")
def add(out, scales, codes, block, weight):
    for b in range(scales.size):
        part = out[b * block : (b + 1) * block]
        half = (part.size + 1) // 2
        code = codes[b * block // 2 : b * block // 2 + half]
        scale = from_bfloat(scales[b])
        low, high = part[:half], part[half:]
        for i in range(low.size):
            low[i] += weight * (scale * np.float32(np.int32(code[i] & 15) - 8))
        for i in range(high.size):
            high[i] += weight * (scale * np.float32(np.int32(code[i] >> 4) - 8))


@jit("void(f4[::1], i2[::1], u1[::1], i2[::1], u1[::1], i8, f4, f4[::1])")
def mix(own, sent_scales, sent, received_scales, received, block, weight, out):
    for b in range(sent_scales.size):
        base = own[b * block : (b + 1) * block]
        part = out[b * block : (b + 1) * block]
        half = (part.size + 1) // 2
        mine = sent[b * block // 2 : b * block // 2 + half]
        theirs = received[b * block // 2 : b * block // 2 + half]
        s, r = from_bfloat(sent_scales[b]), from_bfloat(received_scales[b])
        low, high = part[:half], part[half:]
        base_low, base_high = base[:half], base[half:]
        for i in range(low.size):
            a, c = np.float32(np.int32(mine[i] & 15) - 8), np.float32(np.int32(theirs[i] & 15) - 8)
            low[i] = base_low[i] + weight * (r * c - s * a)
        for i in range(high.size):
            a, c = np.float32(np.int32(mine[i] >> 4) - 8), np.float32(np.int32(theirs[i] >> 4) - 8)
            high[i] = base_high[i] + weight * (r * c - s * a)
