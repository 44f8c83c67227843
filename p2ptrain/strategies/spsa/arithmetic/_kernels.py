"""Compiled loops over the integer master: noise is made bit by bit where it is used, and never stored as numbers.

They walk the vector in pieces that stay in the first-level cache, and finish a piece for all evaluations before they
fetch the next one, so that many bytes cost one pass over memory. `first` is the number of the Philox block that the
vector begins with; an evaluation's coordinates are uint32.
"""

import numpy as np
from numba import njit

from p2ptrain.codecs._kernels._jit import jit

PIECE = 16
"""Philox blocks per piece: 2048 elements, 16 KiB of master."""
LENGTH = 128 * PIECE
M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
HIGH = np.uint64(32)


@njit(inline="always")
def philox(c0, c1, c2, c3, k0, k1):
    """Ten rounds of Philox4x32 (Salmon et al. 2011, section 3.3)."""
    for _ in range(10):
        p0 = np.uint64(c0) * M0
        p1 = np.uint64(c2) * M1
        c0, c1, c2, c3 = (
            np.uint32(np.uint32(p1 >> HIGH) ^ c1 ^ k0),
            np.uint32(p1),
            np.uint32(np.uint32(p0 >> HIGH) ^ c3 ^ k1),
            np.uint32(p0),
        )
        k0 = np.uint32(k0 + W0)
        k1 = np.uint32(k1 + W1)
    return c0, c1, c2, c3


@jit("void(u4, u4, u4, u4, u4, u4, u4[:, ::1])")
def words(k0, k1, first, moment, slot, sample, out):
    """Fill `out`, (4, blocks): word w of block first + i is out[w, i]. The same word of neighbours lies together, so
    that several blocks are computed in one vector."""
    for i in range(out.shape[1]):
        a, b, c, d = philox(np.uint32(first + i), moment, slot, sample, k0, k1)
        out[0, i], out[1, i], out[2, i], out[3, i] = a, b, c, d


@njit(inline="always")
def masked(word, j, value):
    """`value` where bit j is set, else 0."""
    return -((np.int64(word) >> j) & 1) & value


@jit("void(i8[::1], u4[:, :, ::1], i8[::1])")
def take(piece, noise, steps):
    """piece -= sum of step * noise for four evaluations: as many as keep the vector units busy per load and store."""
    s0, s1, s2, s3 = 2 * steps[0], 2 * steps[1], 2 * steps[2], 2 * steps[3]
    total = steps[0] + steps[1] + steps[2] + steps[3]
    for w in range((piece.size + 31) // 32):
        n0, n1, n2, n3 = (
            noise[0, w % 4, w // 4],
            noise[1, w % 4, w // 4],
            noise[2, w % 4, w // 4],
            noise[3, w % 4, w // 4],
        )
        part = piece[32 * w : 32 * w + 32]
        for j in range(part.size):
            part[j] += total - masked(n0, j, s0) - masked(n1, j, s1) - masked(n2, j, s2) - masked(n3, j, s3)


@jit("void(i8[::1], u4, u4, u4, u4[::1], u4[::1], u4[::1], i8[::1])")
def subtract(master, k0, k1, first, moments, slots, samples, steps):
    """master -= sum of step * noise over all evaluations, modulo 2^64. Their number is a multiple of four."""
    noise = np.empty((4, 4, PIECE), np.uint32)
    for start in range(0, master.size, LENGTH):
        piece = master[start : start + LENGTH]
        block = np.uint32(first + start // 128)
        for e in range(0, steps.size, 4):
            for k in range(4):
                words(k0, k1, block, moments[e + k], slots[e + k], samples[e + k], noise[k])
            take(piece, noise, steps[e : e + 4])


@jit("void(i8[::1], u4, u4, u4, u4, u4, u4, i8, f4, f4[::1])")
def perturbed(master, k0, k1, first, moment, slot, sample, step, unit, out):
    """out = (master + step * noise) * unit: the sum in integers, rounded once to float32; `unit` is a power of two."""
    noise = np.empty((4, PIECE), np.uint32)
    for start in range(0, master.size, LENGTH):
        piece = master[start : start + LENGTH]
        made = out[start : start + LENGTH]
        words(k0, k1, np.uint32(first + start // 128), moment, slot, sample, noise)
        for w in range((piece.size + 31) // 32):
            word = noise[w % 4, w // 4]
            part, target = piece[32 * w : 32 * w + 32], made[32 * w : 32 * w + 32]
            for j in range(part.size):
                target[j] = np.float32(part[j] - step + masked(word, j, 2 * step)) * unit
