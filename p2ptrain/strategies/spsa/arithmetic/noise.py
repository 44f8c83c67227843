"""Noise by counter: the +-1 vector of an evaluation is bits of Philox4x32-10 (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3").

Element i is +1 where bit i % 32 of word i // 32 % 4 of the output for counter (i // 128, round, slot, sample) is set,
and -1 elsewhere. There is no state: any part of any vector can be made alone, with integer operations only, and is the
same on every machine and device.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 128
"""Elements per output of Philox."""
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF

Key = tuple[int, int]
"""Two 32-bit words."""


class Evaluation(NamedTuple):
    """What names one evaluation, and so its noise. Each is below 2^32."""

    round: int
    slot: int
    sample: int


@cache
def kernels() -> Any | None:
    """The compiled loops, or None where numba does not work. Takes seconds when nothing is cached yet."""
    try:
        from p2ptrain.strategies.spsa.arithmetic import _kernels
    except ImportError:
        return None
    return _kernels


def signs(key: Key, evaluation: Evaluation, size: int, first: int = 0) -> NDArray[np.int8]:
    """(size,) the noise from element 128 `first` on, in numpy: the reference."""
    counter = [np.arange(first, first + -(-size // BLOCK), dtype=np.uint64)]
    counter += [np.full_like(counter[0], coordinate) for coordinate in evaluation]
    words = np.stack(_philox(counter, key), axis=1).astype("<u4")
    bits = np.unpackbits(words.view(np.uint8).reshape(-1), bitorder="little", count=size)
    return 2 * bits.view(np.int8) - 1


def signs_on(device: torch.device, key: Key, evaluation: Evaluation, size: int, first: int = 0) -> Tensor:
    """(size,) int64 on the device, made there."""
    counter = [torch.arange(first, first + -(-size // BLOCK), device=device)]
    counter += [torch.full_like(counter[0], coordinate) for coordinate in evaluation]
    words = torch.stack(_philox(counter, key), dim=1).reshape(-1, 1)
    bits = (words >> torch.arange(32, device=device)) & 1
    return 2 * bits.reshape(-1)[:size] - 1


def _philox(counter: list[Any], key: Key) -> list[Any]:
    """Ten rounds on arrays of 64-bit integers, signed or not: the sign is lost with the upper half of a product."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (p1 >> 32) & _WORD ^ c1 ^ k0, p1 & _WORD
        c2, c3 = (p0 >> 32) & _WORD ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return [c0, c1, c2, c3]
