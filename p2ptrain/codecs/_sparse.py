"""What topk and randk share: some coordinates of a vector are sent, as float32 or float16, the others not at all."""

from typing import Literal

import torch
from torch import Tensor

from p2ptrain.codecs import Packet
from p2ptrain.codecs._buffers import all_finite, check_decodable, tensor_view
from p2ptrain.errors import PeerError

Values = Literal["fp32", "fp16"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def num_kept(size: int, ratio: float) -> int:
    """How many of `size` coordinates are sent: rounded, but at least one."""
    return min(size, max(1, round(ratio * size)))


def pack_values(values: Tensor, kind: Values) -> Tensor:
    """(k,) finite float32 -> (k,) on the CPU as they are sent; fp16 stops at its largest value."""
    if kind == "fp16":
        values = values.clamp(-65504, 65504)
    return values.to("cpu", DTYPES[kind])


def unpack_values(packet: Packet, kind: Values, count: int, offset: int) -> Tensor:
    """(count,) float32 from byte `offset` on, all finite."""
    values = tensor_view(packet.payload, DTYPES[kind], count, offset).to(torch.float32)
    check_decodable(all_finite(values))
    return values


def remember(memory: Tensor | None, indices: Tensor, values: Tensor) -> None:
    """Note what was sent of each coordinate, as the other end decodes it."""
    if memory is not None:
        memory[indices.to(memory.device)] = values.to(memory.device, memory.dtype)


def add_at(out: Tensor, indices: Tensor, values: Tensor, weight: float) -> None:
    """out[indices] += weight * values, for distinct indices."""
    out.index_add_(0, indices.to(out.device), values.mul(weight).to(out.device, out.dtype))


def check_like(like: Packet, vector: Tensor) -> None:
    if like.size != vector.numel():
        raise PeerError("malformed", f"coordinates of {like.size} elements for a vector of {vector.numel()}")
