"""Vectors seen chunk by chunk: what is taken from memory is used while it is near, and no second copy of all exists."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SORT_WIDTH = 1 << 15
"""Of all rows at once, several times over."""
SUM_WIDTH = 1 << 16
"""Of the result alone."""
DEVICE_WIDTH = 1 << 20
"""Elsewhere than on the CPU each operation costs a launch."""


def work_dtype(vector: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.promote_types(vector.dtype, torch.float32)


def chunks(size: int, width: int) -> Iterator[slice]:
    for start in range(0, size, width):
        yield slice(start, min(size, start + width))


def width_of(vector: Tensor, width: int) -> int:
    return max(1, min(vector.shape[0], width if vector.is_cpu else DEVICE_WIDTH))


def by_columns(columns: Callable[[list[Tensor]], Tensor], own: Tensor, received: Tensor) -> Tensor:
    """`columns` of (own, *received), a chunk at a time; (d,)."""
    dtype = work_dtype(own)
    out = torch.empty_like(own, dtype=dtype)
    for where in chunks(own.shape[0], width_of(own, SORT_WIDTH)):
        rows = [own[where].to(dtype), *received[:, where].to(dtype)]
        out[where] = _mended(columns, rows)
    return out


def weighted_sum(weights: NDArray[np.float64], own: Tensor, received: Tensor) -> Tensor:
    """weights (n,) times (own, *received); (d,). Rows of weight zero are not read."""
    out = torch.empty_like(own, dtype=work_dtype(own))
    first, *others = weights.tolist()
    chosen = [(row, weight) for row, weight in zip(received, others, strict=True) if weight]
    for where in chunks(own.shape[0], width_of(own, SUM_WIDTH)):
        part = torch.mul(own[where].to(out.dtype), first, out=out[where])
        for row, weight in chosen:
            part.add_(row[where].to(out.dtype), alpha=weight)
    return out


def mixed_columns(
    matrix: NDArray[np.float64], columns: Callable[[list[Tensor]], Tensor], own: Tensor, received: Tensor
) -> Tensor:
    """`columns` of matrix (k, n) times (own, *received), a chunk at a time; (d,). Columns of zeros are not read."""
    used = np.flatnonzero(matrix.any(0))
    out = torch.empty_like(own, dtype=work_dtype(own))
    small = torch.from_numpy(matrix[:, used]).to(out)
    vectors = [own if row == 0 else received[row - 1] for row in used]
    width = width_of(own, SORT_WIDTH)
    # Made once: memory that is asked for anew each time costs more than what is done in it.
    parts, mixed = out.new_empty(len(used), width), out.new_empty(len(matrix), width)
    for where in chunks(own.shape[0], width):
        part = parts[:, : where.stop - where.start]
        for row, vector in zip(part, vectors, strict=True):
            row.copy_(vector[where])
        rows = torch.mm(small, part, out=mixed[:, : part.shape[1]])
        out[where] = columns(list(rows))
    return out


def _mended(columns: Callable[[list[Tensor]], Tensor], rows: list[Tensor]) -> Tensor:
    """Where the result is not finite, it is worked out anew with own's number in place of each that is not."""
    result = columns(rows)
    if not result.sum().isfinite():  # cheaper than to look at each, and as good but for sums beyond 1e38
        own, *others = rows
        whole = columns([own, *(row.where(row.isfinite(), own) for row in others)])
        result = result.where(result.isfinite(), whole)
    return result
