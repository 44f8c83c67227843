"""Between tensors and bytes, without copying where that is safe. Everything here is little-endian, as the wire is."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p2ptrain.codecs import Packet
from p2ptrain.errors import PeerError

Array = np.ndarray[Any, Any]
Buffer = bytes | bytearray | memoryview

INFINITY = 0x7F800000
"""The bits of float32 infinity: those of NaN are above, of every finite magnitude below."""


def float32(vector: Tensor) -> Tensor:
    """`vector` as contiguous float32 on its own device; itself if it is that already.

    Raises `ValueError` unless it is 1-d and of a floating dtype."""
    if vector.dim() != 1 or not vector.dtype.is_floating_point:
        raise ValueError(f"codecs take 1-d floating vectors, not {vector.dim()}-d {vector.dtype}")
    if vector.dtype != torch.float32 or vector.requires_grad or not vector.is_contiguous():
        vector = vector.detach().to(torch.float32).contiguous()
    return vector


def array(tensor: Tensor) -> Array:
    """The numpy array that shares a CPU tensor's memory."""
    return tensor.numpy(force=tensor.requires_grad)


def all_finite(vector: Tensor) -> bool:
    """Whether a float32 vector has no NaN and no Inf.

    A dot product runs at the speed of memory and NaN or Inf cannot hide in it; it may overflow for finite values,
    and only then is each one looked at."""
    return math.isfinite(torch.dot(vector, vector)) or bool(torch.isfinite(vector).all())


def check_encodable(finite: bool) -> None:
    if not finite:
        raise ValueError("cannot encode a vector with NaN or Inf (in float32)")


def check_decodable(finite: bool) -> None:
    if not finite:
        raise PeerError("not-finite", "NaN, Inf or overflow in a payload")


def check_length(packet: Packet, expected: int) -> None:
    if packet.size < 0 or packet.nbytes != expected:
        raise PeerError("malformed", f"{packet.nbytes} bytes for {packet.size} elements, expected {expected}")


def view(payload: Buffer, dtype: str, count: int, offset: int = 0) -> Array:
    """(count,) array over the payload from byte `offset` on, for reading only.

    It is marked writable even over `bytes`: torch warns about read-only memory and compiled kernels would want a second
    version for it. It is a copy if the payload does not start at a multiple of the item's size, since
    C code compiled for floats may crash on such addresses.
    """
    if count == 0:
        return np.empty(0, dtype)
    raw = np.frombuffer(payload, np.uint8, count * np.dtype(dtype).itemsize, offset)
    if not raw.flags.writeable:
        raw = np.asarray(_Writable(raw))
    items = raw.view(dtype)
    return items if items.flags.aligned else items.copy()


def tensor_view(payload: Buffer, dtype: torch.dtype, count: int, offset: int = 0) -> Tensor:
    """`view` as a tensor; `dtype` may be one that numpy lacks."""
    raw = view(payload, {2: "<i2", 4: "<i4"}[dtype.itemsize], count, offset)
    return torch.from_numpy(raw).view(dtype)


def payload_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor; of a CPU tensor they are a view, not a copy."""
    return array(tensor.cpu().view(torch.uint8)).data


class _Writable:
    """Shows a read-only array's memory as writable; an array made from it keeps this object, which keeps the memory."""

    def __init__(self, source: Array) -> None:
        self._source = source
        self.__array_interface__ = {**source.__array_interface__, "data": (source.ctypes.data, False)}
