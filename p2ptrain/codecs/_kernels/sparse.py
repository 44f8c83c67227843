"""Selection of the largest elements in three passes over the bits of their magnitudes."""

import numpy as np

from p2ptrain.codecs._kernels._jit import jit, magnitude


@jit("void(f4[::1], i8, i8[::1])")
def largest(vector, count, indices):
    """Fill `indices` (count,) with those of the `count` largest magnitudes, ascending; ties go to the lower index."""
    prefix, rest = np.int32(0), count
    for shift, width in ((20, 11), (10, 10), (0, 10)):
        tally = np.zeros(2048, np.int32)
        last = np.int32((1 << width) - 1)
        above = shift + width
        for i in range(vector.size):
            bits = magnitude(vector[i])
            if above == 31 or (bits >> above) == prefix:
                tally[(bits >> shift) & last] += 1
        digit = last
        while tally[digit] < rest:
            rest -= tally[digit]
            digit -= 1
        prefix = np.int32((prefix << width) | digit)
    place = 0
    for i in range(vector.size):
        bits = magnitude(vector[i])
        if bits >= prefix:
            tie = bits == prefix
            if not tie or rest > 0:
                indices[place] = i
                place += 1
                rest -= tie
