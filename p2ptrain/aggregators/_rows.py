"""What rules know of their vectors: inner products of the differences from one's own, measured in one pass.

Models share a large part. With a common part of 50 and a spread of 1e-3, float32 products of the vectors themselves
are off by more than the spread; those of the differences from a vector among them are not.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p2ptrain.aggregators import _kernels
from p2ptrain.aggregators._chunks import chunks, width_of, work_dtype

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

PASS_WIDTH = 1 << 13
SAMPLE = 64


@dataclass(frozen=True)
class Rows:
    """n vectors x_i, own first, by way of z_i = x_i - own."""

    gram: Array
    """(n, n): <z_i, z_j>. Of a rule without `pairs` only the diagonal is there."""
    toward: Array
    """(n,): <own, z_i>."""
    square: float
    """<own, own>."""
    keys: NDArray[np.uint64]
    """(n,) numbers that follow from what is in the vectors and not from their order: to break ties and shuffle by."""

    def squared_distances(self) -> Array:
        """(n, n)."""
        squares = self.gram.diagonal()
        distances = np.maximum(squares[:, None] + squares - 2 * self.gram, 0)
        np.fill_diagonal(distances, 0)
        return distances

    def products(self) -> Array:
        """(n, n): <x_i, x_j>."""
        return self.square + self.toward[:, None] + self.toward + self.gram

    def order(self, values: Array) -> NDArray[np.intp]:
        """(n,) the rows by increasing value, ties in an order that does not depend on who came first."""
        return np.lexsort((self.keys, values))

    def mixed(self, matrix: Array, keys: NDArray[np.uint64]) -> "Rows":
        """The rows of `matrix @ x`, (k, n) with sums of one."""
        gram, toward = matrix @ self.gram @ matrix.T, matrix @ self.toward
        # Again by way of the differences from the first row.
        from_first = gram[0, 0] - gram[0] - gram[:, :1] + gram
        to_first = toward - toward[0] + gram[0] - gram[0, 0]
        return Rows(from_first, to_first, self.square + 2 * toward[0] + gram[0, 0], keys)


def measure(own: Tensor, received: Tensor, pairs: bool) -> tuple[Rows, Mask]:
    """The rows, and (n,) which of them are not finite or too far away; these are as if they were own's."""
    total = (_products if pairs else _squares)(own, received)
    bad = ~np.isfinite(total.diagonal())
    bad[0] = False
    total[bad] = 0
    total[:, bad] = 0
    gram, toward = total.copy(), total[0].copy()
    gram[0] = gram[:, 0] = toward[0] = 0
    keys = _keys(own, received)
    keys[bad] = keys[0]
    return Rows(gram, toward, float(total[0, 0]), keys), bad


def _products(own: Tensor, received: Tensor) -> Array:
    """(n, n) inner products of own, z_1, ..., z_m."""
    num = 1 + len(received)
    kernels = _kernels.load() if own.is_cpu and work_dtype(own) == torch.float32 else None
    even = num + num % 2 if kernels else num
    width = width_of(own, PASS_WIDTH)
    total = torch.zeros(even, even, dtype=torch.float64, device=own.device)
    buffer = torch.zeros(even, width, dtype=work_dtype(own), device=own.device)
    with _whole_products():
        for where in chunks(own.shape[0], width):
            part = _differences(own, received, where, buffer[:num])
            if kernels:
                kernels.add_products(buffer.numpy(), part.shape[1], total.numpy())
            else:
                total += part @ part.T
    upper = np.triu(total.cpu().numpy())[:num, :num]
    return upper + np.triu(upper, 1).T


def _squares(own: Tensor, received: Tensor) -> Array:
    """The same with nothing but the diagonal."""
    num, width = 1 + len(received), width_of(own, PASS_WIDTH)
    total = torch.zeros(num, dtype=torch.float64, device=own.device)
    buffer = torch.empty(num, width, dtype=work_dtype(own), device=own.device)
    for where in chunks(own.shape[0], width):
        part = _differences(own, received, where, buffer)
        total += torch.linalg.vector_norm(part, dim=1).double().square()
    return np.diag(total.cpu().numpy())


def _differences(own: Tensor, received: Tensor, where: slice, buffer: Tensor) -> Tensor:
    """Own and the differences from it, in the buffer."""
    part = buffer[:, : where.stop - where.start]
    part[0] = own[where]
    if received.dtype == own.dtype == part.dtype:
        torch.sub(received[:, where], own[where], out=part[1:])
    else:
        part[1:] = received[:, where]
        part[1:] -= part[0]
    return part


@contextmanager
def _whole_products() -> Iterator[None]:
    """Ten bits of mantissa, which some devices think enough for float32 products, are not enough for distances."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _keys(own: Tensor, received: Tensor) -> NDArray[np.uint64]:
    """Hashes of a sample of each vector, with own's as a salt: nobody else knows it while choosing what to send."""
    step = max(1, own.shape[0] // SAMPLE)
    salt, *sample = (
        row.tobytes() for each in (own[None], received) for row in each[:, ::step][:, :SAMPLE].double().cpu().numpy()
    )
    hashes = [
        hashlib.blake2b(row, digest_size=8, key=hashlib.sha256(salt).digest()).digest() for row in (salt, *sample)
    ]
    return np.frombuffer(b"".join(hashes), np.uint64).copy()
