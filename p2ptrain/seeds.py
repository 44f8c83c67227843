"""All randomness: one generator per (run seed, purpose, ...), so that no draw depends on another's order."""

import hashlib
import random

import numpy as np


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, e.g. `derive(run.seed, "split", slot)`; equal on every machine."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def python_random(seed: int, *purpose: object) -> random.Random:
    """For choices: which peer, which gap."""
    return random.Random(derive(seed, *purpose))


def numpy_random(seed: int, *purpose: object) -> np.random.Generator:
    """For arrays: data splits, batches, rounding bits. Philox, so the stream is the same on every machine."""
    return np.random.Generator(np.random.Philox(derive(seed, *purpose)))
