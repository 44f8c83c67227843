"""fp32, fp16, bf16, int8, int4: their errors, their layouts, stochastic rounding."""

import math
import struct

import pytest
import torch
from torch import Tensor

from p2ptrain import codecs
from p2ptrain.codecs import Packet
from p2ptrain.errors import PeerError

SIZE = 1 << 18


def sample(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if kind == "gauss":
        return torch.randn(SIZE, generator=generator)
    uniform = torch.rand(SIZE, generator=generator) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs())


def error(one: Tensor, two: Tensor) -> float:
    return float((one.double() - two.double()).square().sum() / one.double().square().sum())


@pytest.mark.parametrize(
    ("name", "options", "gauss", "laplace"),
    [
        ("fp32", {}, 0, 0),
        ("fp16", {}, 4.3e-8, 4.3e-8),
        ("bf16", {}, 2.76e-6, 2.76e-6),
        ("int8", {"block": 256}, 4.8e-5, 1.0e-4),
        ("int8", {"block": 4096}, 7.5e-5, 2.1e-4),
        ("int8", {"stochastic": True}, 9.7e-5, 2.0e-4),
        ("int4", {}, 1.16e-2, 2.0e-2),
    ],
)
def test_errors(name: str, options: dict[str, object], gauss: float, laplace: float) -> None:
    """The numbers come from the formulas, in float64 on four million values."""
    codec = codecs.make(name, **options)
    for kind, expected in (("gauss", gauss), ("laplace", laplace)):
        vector = sample(kind)
        assert error(vector, codec.decode(codec.encode(vector))) == pytest.approx(expected, rel=0.08)


def test_fp32_is_a_view() -> None:
    vector = torch.arange(5.0)
    codec = codecs.make("fp32")
    packet = codec.encode(vector)
    assert codec.decode(packet).data_ptr() == vector.data_ptr()


@pytest.mark.parametrize(("name", "largest"), [("fp16", 65504.0), ("bf16", torch.finfo(torch.bfloat16).max)])
def test_casts_stop_at_the_largest_value(name: str, largest: float) -> None:
    codec = codecs.make(name)
    huge = torch.finfo(torch.float32).max
    assert codec.decode(codec.encode(torch.tensor([huge, -huge, 1.0]))).tolist() == [largest, -largest, 1.0]


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_casts_equal_torch(name: str, dtype: torch.dtype) -> None:
    bits = torch.randint(-(2**31), 2**31 - 1, (100_000,), generator=torch.Generator().manual_seed(0))
    vector = bits.to(torch.int32).view(torch.float32)
    vector = vector[vector.abs() < 65504]
    codec = codecs.make(name)
    assert torch.equal(codec.decode(codec.encode(vector)), vector.to(dtype).to(torch.float32))


def test_int8_layout() -> None:
    """Decoded from the docstring alone."""
    vector = sample("gauss")[:700]
    packet = codecs.make("int8", block=256).encode(vector)
    scales = struct.unpack_from("<3f", packet.payload)
    codes = struct.unpack_from("<700b", packet.payload, 12)
    decoded = torch.tensor([scales[i // 256] * code for i, code in enumerate(codes)])
    assert torch.equal(codecs.make("int8").decode(packet), decoded)
    assert max(map(abs, codes)) == 127
    assert scales[0] == pytest.approx(float(vector[:256].abs().max()) / 127)


@pytest.mark.parametrize("size", [150, 151, 64, 1])
def test_int4_layout(size: int) -> None:
    vector = sample("gauss")[:size]
    packet = codecs.make("int4", block=64).encode(vector)
    blocks = math.ceil(size / 64)
    decoded: list[float] = []
    place = 2 * blocks
    for b in range(blocks):
        (scale,) = struct.unpack("<f", b"\0\0" + bytes(packet.payload[2 * b : 2 * b + 2]))
        count = min(64, size - 64 * b)
        half = math.ceil(count / 2)
        run = bytes(packet.payload[place : place + half])
        decoded += [scale * (code - 8) for code in ([byte & 15 for byte in run] + [byte >> 4 for byte in run])[:count]]
        place += half
    assert place == packet.nbytes
    assert torch.equal(codecs.make("int4").decode(packet), torch.tensor(decoded))


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("scale", [1e-44, 1e-35, 1e-20, 1e-7, 1e5, 1e30])
def test_any_magnitude(name: str, scale: float) -> None:
    """The error is relative to the magnitude, down to where blocks are sent as zeros."""
    codec, vector = codecs.make(name), sample("gauss")[:1000]
    usual = error(vector, codec.decode(codec.encode(vector)))
    got = error(vector * scale, codec.decode(codec.encode(vector * scale)))
    assert got == pytest.approx(1 if scale < 1e-30 else usual, rel=0.05)


@pytest.mark.parametrize(
    ("name", "scale", "reason"),
    [
        ("int8", struct.pack("<f", math.nan), "not-finite"),
        ("int8", struct.pack("<f", math.inf), "not-finite"),
        ("int8", struct.pack("<f", 3e36), "not-finite"),
        ("int8", struct.pack("<f", -1.0), "malformed"),
        ("int4", struct.pack("<f", math.nan)[2:], "not-finite"),
        ("int4", struct.pack("<f", math.inf)[2:], "not-finite"),
        ("int4", struct.pack("<f", 5e37)[2:], "not-finite"),
        ("int4", struct.pack("<f", -1.0)[2:], "malformed"),
    ],
)
def test_bad_scales(name: str, scale: bytes, reason: str) -> None:
    codec = codecs.make(name)
    payload = bytearray(codec.encode(torch.ones(1000)).payload)
    payload[4:4] = b""
    payload[: len(scale)] = scale
    with pytest.raises(PeerError, match=reason):
        codec.decode(Packet(payload, 1000))


def test_unused_code_is_defined() -> None:
    payload = struct.pack("<f2b", 0.5, -128, 127)
    assert codecs.make("int8").decode(Packet(payload, 2)).tolist() == [-64.0, 63.5]


def test_stochastic_rounding_is_unbiased_and_repeatable() -> None:
    codec = codecs.make("int8", stochastic=True)
    vector = sample("gauss")[:2048]
    seeds = 400
    draws = torch.stack([codec.decode(codec.encode(vector, seed=seed)) for seed in range(seeds)]).double()
    step = vector.view(-1, 256).abs().amax(1).div(127).repeat_interleave(256).double()
    bias = (draws.mean(0) - vector) / step
    # Each draw is off by at most one step, with a deviation of at most half a step.
    assert float(bias.abs().max()) < 5 * 0.5 / seeds**0.5
    assert abs(float(bias.mean())) < 5 * 0.5 / (seeds * 2048) ** 0.5
    assert float((draws - vector).abs().div(step).max()) < 1 + 1e-4
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(draws[7].float(), codec.decode(codec.encode(vector, seed=7)))
