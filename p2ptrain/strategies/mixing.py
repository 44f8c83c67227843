"""Averages with neighbours, for methods that go in rounds."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor


def mix(row: np.ndarray, vectors: Mapping[int, Tensor]) -> Tensor:
    """(d,): the sum of `row[slot]` times the slot's vector, where `row`, (n,), is one of a mixing matrix. `vectors`
    holds this node's own and its neighbours'; in order of slots, so that every run rounds alike."""
    terms = (float(row[slot]) * vectors[slot] for slot in sorted(vectors))
    total = next(terms)
    for term in terms:
        total = total + term
    return total
