"""Inner products of all pairs of a few long rows, two by two: four sums per four loads keep the multipliers busy."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

TILE = 1024
"""Columns whose sums are kept in float32; beyond that they are added up in float64."""


def _jit(signature: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile at once, free to reorder sums; without a folder to keep the machine code in, anew in each process."""

    def compile_one(function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy"}
        try:
            return numba.njit(signature, cache=True, **options)(function)
        except (RuntimeError, OSError, EOFError):
            return numba.njit(signature, **options)(function)

    return compile_one


@_jit("void(float32[:,::1], int64, float64[:,::1])")
def add_products(rows: Any, width: int, out: Any) -> None:
    """Upper triangle of out (n, n) += rows @ rows.T over the first `width` columns of rows (n, >= width), n even."""
    for start in range(0, width, TILE):
        stop = min(width, start + TILE)
        for i in range(0, len(rows), 2):
            a, b = rows[i, start:stop], rows[i + 1, start:stop]
            for j in range(i, len(rows), 2):
                c, d = rows[j, start:stop], rows[j + 1, start:stop]
                ac, ad, bc, bd = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                for k in range(stop - start):
                    ac += a[k] * c[k]
                    ad += a[k] * d[k]
                    bc += b[k] * c[k]
                    bd += b[k] * d[k]
                out[i, j] += ac
                out[i, j + 1] += ad
                out[i + 1, j] += bc
                out[i + 1, j + 1] += bd
