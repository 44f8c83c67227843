"""Sorts a few rows of many columns by comparing whole rows with one another: no index, no branch, all vector code."""

from collections.abc import Collection, Iterator
from functools import lru_cache

import torch
from torch import Tensor


def sort_rows(rows: list[Tensor], wanted: Collection[int]) -> list[Tensor]:
    """n tensors (chunk,) -> n tensors, of which those at the indices `wanted` are the order statistics of each column.

    The others are anything. What was given is not written to."""
    rows = list(rows)
    for i, j, low, high in _network(len(rows), frozenset(wanted)):
        a, b = rows[i], rows[j]
        if low:
            rows[i] = torch.minimum(a, b)
        if high:
            rows[j] = torch.maximum(a, b)
    return rows


@lru_cache(maxsize=256)
def _network(num: int, wanted: frozenset[int]) -> tuple[tuple[int, int, bool, bool], ...]:
    """(i, j, whether i is wanted, whether j is): the comparisons that `wanted` depends on, in order."""
    needed, kept = set(wanted), []
    for i, j in reversed(list(_merge_exchange(num))):
        if i in needed or j in needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return tuple(reversed(kept))


def _merge_exchange(num: int) -> Iterator[tuple[int, int]]:
    """Batcher's sorting network for any number of rows (Knuth, The Art of Computer Programming 3, 5.2.2 M)."""
    top = 1 << max(0, (num - 1).bit_length() - 1)
    block = top if num > 1 else 0
    while block:
        step, offset, distance = top, 0, block
        while distance:
            for i in range(num - distance):
                if i & block == offset:
                    yield i, i + distance
            distance, offset = (step - block, block) if step > block else (0, 0)
            step >>= 1
        block >>= 1
