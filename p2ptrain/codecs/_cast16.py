"""What fp16 and bf16 share: casts that refuse NaN and Inf and stop at the largest finite value."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from p2ptrain.codecs import Codec, Packet, check_sizes
from p2ptrain.codecs._buffers import (
    Array,
    all_finite,
    array,
    check_decodable,
    check_encodable,
    check_length,
    float32,
    payload_of,
    tensor_view,
    view,
)
from p2ptrain.codecs._kernels import compiled


@dataclass(frozen=True)
class Format:
    """A 16-bit float."""

    dtype: torch.dtype
    largest: float
    """Larger magnitudes are sent as this one, where a plain cast would give Inf."""
    infinity: int
    """Its bits."""
    kernel: str
    """End of the names of its kernels."""


def encode(vector: Tensor, form: Format) -> Packet:
    vector = float32(vector)
    kernels = compiled("cast16", vector)
    if kernels is None:
        cast = _encode_in_torch(vector, form)
    else:
        cast = torch.empty(vector.numel(), dtype=form.dtype)
        top = getattr(kernels, f"encode_{form.kernel}")(array(vector), array(cast.view(torch.int16)))
        if top > np.float32(form.largest).view(np.int32):
            cast = _encode_in_torch(vector, form)
    return Packet(payload_of(cast), vector.numel())


def decode(packet: Packet, form: Format) -> Tensor:
    check_length(packet, 2 * packet.size)
    kernels = compiled("cast16")
    if kernels is not None:
        _checked_bits(packet, form, kernels)
    vector = tensor_view(packet.payload, form.dtype, packet.size).to(torch.float32)
    if kernels is None:
        check_decodable(all_finite(vector))
    return vector


def add(codec: Codec, form: Format, packet: Packet, out: Tensor, weight: float) -> None:
    kernels = compiled("cast16", out)
    if kernels is None:
        return Codec.add(codec, packet, out, weight)
    check_sizes(out, packet)
    getattr(kernels, f"add_{form.kernel}")(array(out), _checked_bits(packet, form, kernels), weight)


def mix(codec: Codec, form: Format, own: Tensor, sent: Packet, received: Packet, weight: float, out: Tensor) -> None:
    kernels = compiled("cast16", own, out)
    if kernels is None:
        return Codec.mix(codec, own, sent, received, weight, out)
    check_sizes(out, sent, received)
    mine, theirs = _checked_bits(sent, form, kernels), _checked_bits(received, form, kernels)
    getattr(kernels, f"mix_{form.kernel}")(array(own), mine, theirs, weight, array(out))


def _encode_in_torch(vector: Tensor, form: Format) -> Tensor:
    check_encodable(all_finite(vector))
    return vector.clamp(-form.largest, form.largest).to(form.dtype)


def _checked_bits(packet: Packet, form: Format, kernels: object) -> Array:
    """(size,) int16, the bits of the payload, all finite."""
    check_length(packet, 2 * packet.size)
    bits = view(packet.payload, "<i2", packet.size)
    check_decodable(kernels.largest(bits) < form.infinity)  # pyright: ignore[reportAttributeAccessIssue]
    return bits
