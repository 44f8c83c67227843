"""What every codec promises, shipped or not."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2ptrain import codecs
from p2ptrain.codecs import Codec, Packet
from p2ptrain.errors import ConfigError, PeerError

MAX_NBYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.02, "int4": 0.54, "topk": 0.061, "randk": 0.042}
"""Bytes per element of the shipped codecs as they are, at 8192 elements."""
SIZES = [0, 1, 2, 63, 65, 255, 257, 1000, 4096, 70_001]

anything = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
finite_lists = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=40)


def gaussian(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def squared(vector: Tensor) -> float:
    return float(vector.double().square().sum())


def pair(codec: Codec, own: Tensor, other: Tensor) -> tuple[Packet, Packet]:
    """What two ends send each other."""
    sent = codec.encode(own, seed=5)
    return sent, codec.encode(other, seed=5, like=sent)


@pytest.mark.parametrize("size", SIZES)
def test_round_trip(codec: Codec, size: int) -> None:
    vector = gaussian(size)
    packet = codec.encode(vector, seed=3)
    decoded = codec.decode(packet)
    assert packet.size == size
    assert packet.nbytes <= codec.max_nbytes(size)
    assert (decoded.shape, decoded.dtype, decoded.device.type) == (vector.shape, torch.float32, "cpu")
    bound = 1.0 if not getattr(codec, "stochastic", False) else 1e-3
    assert squared(decoded - vector) <= bound * squared(vector)
    assert torch.equal(vector, gaussian(size)), "encoding must not touch the vector"


@anything
@given(values=finite_lists)
def test_any_finite_vector_can_be_encoded(codec: Codec, values: list[float]) -> None:
    vector = torch.tensor(values, dtype=torch.float32)
    packet = codec.encode(vector, seed=1)
    decoded = codec.decode(packet)
    assert packet.nbytes <= codec.max_nbytes(len(values))
    assert decoded.isfinite().all()
    if not getattr(codec, "stochastic", False):
        assert squared(decoded - vector) <= squared(vector) * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_dtypes(codec: Codec, dtype: torch.dtype) -> None:
    vector = gaussian(1000).to(dtype)
    assert torch.equal(codec.decode(codec.encode(vector)), codec.decode(codec.encode(vector.to(torch.float32))))


def test_strided_and_tracked_vectors(codec: Codec) -> None:
    vector = gaussian(2000)
    expected = codec.decode(codec.encode(vector[::2].contiguous()))
    assert torch.equal(codec.decode(codec.encode(vector[::2])), expected)
    assert torch.equal(codec.decode(codec.encode(vector[::2].clone().requires_grad_())), expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_encode_refuses_what_is_not_finite(codec: Codec, bad: float, place: int) -> None:
    vector = gaussian(1000)
    vector[place] = bad
    with pytest.raises(ValueError, match="NaN or Inf"):
        codec.encode(vector)


@pytest.mark.parametrize("vector", [torch.zeros(2, 2), torch.zeros(4, dtype=torch.int64), torch.tensor(1.0)])
def test_encode_refuses_what_is_no_float_vector(codec: Codec, vector: Tensor) -> None:
    with pytest.raises(ValueError, match="1-d floating"):
        codec.encode(vector)


def test_float64_beyond_float32_is_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="float32"):
        codec.encode(torch.tensor([1e300], dtype=torch.float64))


@anything
@given(size=st.integers(-1, 200), payload=st.binary(max_size=900))
def test_arbitrary_bytes(codec: Codec, size: int, payload: bytes) -> None:
    check_untrusted(codec, Packet(payload, size))


@anything
@given(size=st.integers(0, 200), data=st.data())
def test_arbitrary_bytes_of_the_right_length(codec: Codec, size: int, data: st.DataObject) -> None:
    length = codec.max_nbytes(size)
    check_untrusted(codec, Packet(data.draw(st.binary(min_size=length, max_size=length)), size))


@anything
@given(size=st.integers(1, 300), place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_one_wrong_byte(codec: Codec, size: int, place: int, value: int) -> None:
    payload = bytearray(codec.encode(gaussian(size)).payload)
    payload[place % len(payload)] = value
    check_untrusted(codec, Packet(payload, size))


def check_untrusted(codec: Codec, packet: Packet) -> None:
    """Either a finite vector or a `PeerError` that leaves the accumulator as it was."""
    out = torch.ones(max(packet.size, 0))
    try:
        decoded = codec.decode(packet)
    except PeerError as refusal:
        with pytest.raises(PeerError, match=r"malformed|not-finite"):
            raise refusal
        with pytest.raises(PeerError):
            codec.add(packet, out, 1.0)
        assert torch.equal(out, torch.ones_like(out))
        own = torch.zeros_like(out)
        with pytest.raises(PeerError):
            codec.mix(own, codec.encode(own), packet, 0.5, out)
    else:
        assert decoded.shape == (packet.size,)
        assert decoded.isfinite().all()


def test_wrong_lengths_are_malformed(codec: Codec) -> None:
    packet = codec.encode(gaussian(500))
    payload = bytes(packet.payload)
    for other in (payload[:-1], payload + b"\0", b""):
        with pytest.raises(PeerError, match="malformed"):
            codec.decode(Packet(other, packet.size))
    with pytest.raises(PeerError, match="malformed"):
        codec.add(packet, torch.zeros(501), 1.0)


def test_payload_may_be_read_only_or_misaligned(codec: Codec) -> None:
    packet = codec.encode(gaussian(1000))
    expected = codec.decode(packet).clone()
    frozen = bytes(packet.payload)
    decoded = codec.decode(Packet(frozen, 1000))
    assert torch.equal(decoded, expected)
    decoded.zero_()
    assert frozen == bytes(packet.payload), "bytes must never change"
    for shift in (1, 2, 3):
        buffer = bytearray(shift) + frozen
        assert torch.equal(codec.decode(Packet(memoryview(buffer)[shift:], 1000)), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weight", [0.5, 0.1, -1.5])
def test_add(codec: Codec, size: int, weight: float) -> None:
    packet, out = codec.encode(gaussian(size)), gaussian(size, seed=1)
    expected = out.double() + weight * codec.decode(packet).double()
    codec.add(packet, out, weight)
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weight", [0.5, 0.1])
def test_mix(codec: Codec, size: int, weight: float) -> None:
    own, other, out = gaussian(size), gaussian(size, seed=1), torch.full((size,), math.nan)
    sent, received = pair(codec, own, other)
    expected = own.double() + weight * (codec.decode(received).double() - codec.decode(sent).double())
    codec.mix(own, sent, received, weight, out)
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(own, gaussian(size))


def test_mix_when_own_has_moved_since_it_was_sent(codec: Codec) -> None:
    own, out = gaussian(1000), torch.empty(1000)
    sent, received = pair(codec, own.clone(), gaussian(1000, seed=1))
    own += 1
    expected = own.double() + 0.5 * (codec.decode(received).double() - codec.decode(sent).double())
    codec.mix(own, sent, received, 0.5, out)
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)


@anything
@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_two_ends_keep_their_sum(codec: Codec, seed: int, scale: float) -> None:
    one, two = gaussian(777, seed), scale * gaussian(777, seed + 1)
    first, second = pair(codec, one, two)
    new_one, new_two = torch.empty(777), torch.empty(777)
    codec.mix(one, first, second, 0.5, new_one)
    codec.mix(two, second, first, 0.5, new_two)
    drift = (new_one.double() + new_two.double()) - (one.double() + two.double())
    assert abs(float(drift.sum())) <= 1e-6 * float(one.abs().sum() + two.abs().sum())


def test_mix_of_different_sizes_is_refused(codec: Codec) -> None:
    sent, received = codec.encode(gaussian(100)), codec.encode(gaussian(101))
    with pytest.raises(PeerError, match="malformed"):
        codec.mix(gaussian(100), sent, received, 0.5, torch.empty(100))
    with pytest.raises(ValueError, match="shape"):
        codec.mix(gaussian(99), sent, sent, 0.5, torch.empty(100))


def test_same_seed_same_bytes(codec: Codec) -> None:
    first, again = (bytes(codec.encode(gaussian(1000), seed=2**63 - 1).payload) for _ in range(2))
    assert first == again


def test_configuration_round_trips(codec: Codec) -> None:
    assert codecs.parse(codec.model_dump()) == codec


def test_chunks_can_be_cut(codec: Codec) -> None:
    assert 262_144 % codec.granularity == 0


@pytest.mark.parametrize("name", sorted(MAX_NBYTES))
def test_size_of_shipped_codecs(name: str) -> None:
    assert codecs.make(name).encode(gaussian(8192)).nbytes <= MAX_NBYTES[name] * 8192


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("int8", {"block": 0}),
        ("int8", {"block": 1 << 20}),
        ("int4", {"block": 65}),
        ("topk", {"ratio": 0}),
        ("topk", {"ratio": 1.5}),
        ("randk", {"values": "int8"}),
    ],
)
def test_bad_options(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        codecs.make(name, **options)
