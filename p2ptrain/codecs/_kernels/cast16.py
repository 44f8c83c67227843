"""Loops for fp16 and bf16. `bits` arrays are int16, the bit patterns of the 16-bit floats."""

import numpy as np

from p2ptrain.codecs._kernels._jit import from_bfloat, from_half, jit, magnitude, to_bfloat, to_half


@jit("i4(f4[::1], i2[::1])")
def encode_half(vector, bits):
    """Cast, and return the largest magnitude met, as bits: one pass both converts and checks."""
    top = np.int32(0)
    for i in range(vector.size):
        top = max(top, magnitude(vector[i]))
        bits[i] = to_half(vector[i])
    return top


@jit("i4(f4[::1], i2[::1])")
def encode_bfloat(vector, bits):
    top = np.int32(0)
    for i in range(vector.size):
        top = max(top, magnitude(vector[i]))
        bits[i] = to_bfloat(vector[i])
    return top


@jit("i2(i2[::1])")
def largest(bits):
    """The largest magnitude, as bits: not finite from 0x7C00 (fp16) or 0x7F80 (bf16) on."""
    top = np.int16(0)
    for i in range(bits.size):
        top = max(top, np.int16(bits[i] & np.int16(0x7FFF)))
    return top


@jit("void(f4[::1], i2[::1], f4)")
def add_half(out, bits, weight):
    for i in range(out.size):
        out[i] += weight * from_half(bits[i])


@jit("void(f4[::1], i2[::1], f4)")
def add_bfloat(out, bits, weight):
    for i in range(out.size):
        out[i] += weight * from_bfloat(bits[i])


@jit("void(f4[::1], i2[::1], i2[::1], f4, f4[::1])")
def mix_half(own, sent, received, weight, out):
    for i in range(out.size):
        out[i] = own[i] + weight * (from_half(received[i]) - from_half(sent[i]))


@jit("void(f4[::1], i2[::1], i2[::1], f4, f4[::1])")
def mix_bfloat(own, sent, received, weight, out):
    for i in range(out.size):
        out[i] = own[i] + weight * (from_bfloat(received[i]) - from_bfloat(sent[i]))
