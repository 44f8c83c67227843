"""Random words for codecs: Philox4x64-10 (Salmon et al. 2011), equal on every machine and in every language."""

import numpy as np

from p2ptrain.codecs._buffers import Array

SEEDS = 1 << 64
"""Seeds are taken modulo this."""


def random_words(seed: int, count: int) -> Array:
    """(count,) uint64: the outputs for key (seed, 0) and counters 1, 2, ..., four words each, lowest word first."""
    return np.random.Philox(key=seed % SEEDS).random_raw(count)
