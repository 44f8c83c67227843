"""What fp16 and bf16 share: casts that refuse NaN and Inf and stop at the largest finite value."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p2ptrain.codecs import Codec, Packet, check_mix, check_sizes
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
    largest_bits: int
    """Its bits as a float32."""
    infinity: int
    """The bits of infinity in this format."""
    kernel: str
    """End of the names of its kernels."""


def encode(vector: Tensor, form: Format) -> Packet:
    vector = float32(vector)
    size = vector.numel()
    kernels = compiled("cast16", size, vector)
    if kernels is not None:
        payload = np.empty(2 * size, np.uint8)
        top = getattr(kernels, f"encode_{form.kernel}")(array(vector), payload.view("<i2"))
        if top <= form.largest_bits:
            return Packet(payload.data, size)
    check_encodable(all_finite(vector))
    return Packet(payload_of(vector.clamp(-form.largest, form.largest).to(form.dtype)), size)


def decode(packet: Packet, form: Format) -> Tensor:
    check_length(packet, 2 * packet.size)
    kernels = compiled("cast16", packet.size)
    if kernels is not None:
        _checked_bits(packet, form, kernels)
    vector = tensor_view(packet.payload, form.dtype, packet.size).to(torch.float32)
    if kernels is None:
        check_decodable(all_finite(vector))
    return vector


def add(codec: Codec, form: Format, packet: Packet, out: Tensor, weight: float) -> None:
    kernels = compiled("cast16", packet.size, out)
    if kernels is None:
        return Codec.add(codec, packet, out, weight)
    check_sizes(out, packet)
    getattr(kernels, f"add_{form.kernel}")(array(out), _checked_bits(packet, form, kernels), weight)


def mix(codec: Codec, form: Format, own: Tensor, sent: Packet, received: Packet, weight: float, out: Tensor) -> None:
    kernels = compiled("cast16", sent.size, own, out)
    if kernels is None:
        return Codec.mix(codec, own, sent, received, weight, out)
    check_mix(own, sent, received, out)
    mine, theirs = _bits(sent), _checked_bits(received, form, kernels)  # `sent` was checked when it was encoded
    getattr(kernels, f"mix_{form.kernel}")(array(own), mine, theirs, weight, array(out))


def _bits(packet: Packet) -> Array:
    """(size,) int16, the bits of the payload."""
    check_length(packet, 2 * packet.size)
    return view(packet.payload, "<i2", packet.size)


def _checked_bits(packet: Packet, form: Format, kernels: Any) -> Array:
    """`_bits`, of finite values only."""
    bits = _bits(packet)
    check_decodable(kernels.largest(bits) < form.infinity)
    return bits
