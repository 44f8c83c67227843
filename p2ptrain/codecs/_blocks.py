"""What int8 and int4 share: a vector is cut into blocks, each sent as a scale and small integers.

The torch operations give bit for bit what the compiled loops give; they serve where there is no numba, and on GPUs.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from p2ptrain.codecs._buffers import Array
from p2ptrain.errors import PeerError

TINY = 2.0**-100
"""Blocks whose largest magnitude is below are sent as zeros, so that no factor overflows."""


def num_blocks(size: int, block: int) -> int:
    return -(-size // block)


def map_rows(function: Callable[..., tuple[Tensor, ...]], block: int, *vectors: Tensor) -> list[Tensor]:
    """Apply `function` to the blocks as the rows of a matrix; the last short block is a matrix of its own.

    The results are flattened and joined, the scales of all blocks before their codes or the like."""
    full = vectors[0].numel() // block * block
    parts = [function(*(each[:full].view(-1, block) for each in vectors))]
    if full < vectors[0].numel():
        parts.append(function(*(each[full:].view(1, -1) for each in vectors)))
    return [torch.cat([result.flatten() for result in results]) for results in zip(*parts, strict=True)]


def absmax_of(rows: Tensor) -> Tensor:
    """(r, m) -> (r, 1)."""
    return rows.abs().amax(dim=1, keepdim=True)


def check_scales(scales: Array, limit: float) -> None:
    """Raise `PeerError` unless all scales are in [0, limit), where `limit` is where decoding would overflow."""
    if scales.size and not scales.max() < limit:  # NaN fails every comparison
        raise PeerError("not-finite", "a block's scale is NaN, Inf or overflows")
    if scales.size and scales.min() < 0:
        raise PeerError("malformed", "a block's scale is negative")
