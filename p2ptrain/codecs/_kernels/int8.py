"""Loops for the int8 codec: `scales` has one float32 per block, `codes` one int8 per element.

Each block is a slice with a loop over its own length: that is what lets LLVM vectorise the loops without bound checks.
"""

import numpy as np

from p2ptrain.codecs._kernels._jit import from_bits, jit, magnitude

TINY = np.float32(2.0**-100)
LARGEST = np.float32(127.0)
MAX_SCALE = np.float32(2.0**121 - 2.0**97)


@jit("i4(f4[::1], i8, f4[::1], i1[::1])")
def encode(vector, block, scales, codes):
    """Fill scales and codes; return the largest magnitude met, as bits."""
    worst = np.int32(0)
    for b in range(scales.size):
        part = vector[b * block : (b + 1) * block]
        code = codes[b * block : (b + 1) * block]
        top = np.int32(0)
        for i in range(part.size):
            top = max(top, magnitude(part[i]))
        worst = max(worst, top)
        absmax = from_bits(top)
        usable = absmax >= TINY
        factor = LARGEST / absmax if usable else np.float32(0)
        scales[b] = min(absmax / LARGEST, MAX_SCALE) if usable else np.float32(0)
        for i in range(part.size):
            code[i] = np.int8(np.rint(part[i] * factor))
    return worst


@jit("i4(f4[::1], u2[::1], i8, f4[::1], i1[::1])")
def encode_stochastic(vector, noise, block, scales, codes):
    """`encode`, but up or down with the probability that makes the mean right; noise is 16 random bits each."""
    worst = np.int32(0)
    for b in range(scales.size):
        part = vector[b * block : (b + 1) * block]
        bits = noise[b * block : (b + 1) * block]
        code = codes[b * block : (b + 1) * block]
        top = np.int32(0)
        for i in range(part.size):
            top = max(top, magnitude(part[i]))
        worst = max(worst, top)
        absmax = from_bits(top)
        usable = absmax >= TINY
        factor = LARGEST / absmax if usable else np.float32(0)
        scales[b] = min(absmax / LARGEST, MAX_SCALE) if usable else np.float32(0)
        for i in range(part.size):
            up = (np.float32(bits[i]) + np.float32(0.5)) * np.float32(2.0**-16)
            code[i] = np.int8(min(np.floor(part[i] * factor + up), LARGEST))
    return worst


@jit("void(f4[::1], i1[::1], i8, f4[::1])")
def decode(scales, codes, block, out):
    for b in range(scales.size):
        part = out[b * block : (b + 1) * block]
        code = codes[b * block : (b + 1) * block]
        scale = scales[b]
        for i in range(part.size):
            part[i] = scale * np.float32(code[i])


@jit("void(f4[::1], f4[::1], i1[::1], i8, f4)")
def add(out, scales, codes, block, weight):
    for b in range(scales.size):
        part = out[b * block : (b + 1) * block]
        code = codes[b * block : (b + 1) * block]
        scale = scales[b]
        for i in range(part.size):
            part[i] += weight * (scale * np.float32(code[i]))


@jit("void(f4[::1], f4[::1], i1[::1], f4[::1], i1[::1], i8, f4, f4[::1])")
def mix(own, sent_scales, sent, received_scales, received, block, weight, out):
    for b in range(sent_scales.size):
        base = own[b * block : (b + 1) * block]
        part = out[b * block : (b + 1) * block]
        mine = sent[b * block : (b + 1) * block]
        theirs = received[b * block : (b + 1) * block]
        s, r = sent_scales[b], received_scales[b]
        for i in range(part.size):
            part[i] = base[i] + weight * (r * np.float32(theirs[i]) - s * np.float32(mine[i]))
