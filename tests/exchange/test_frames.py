"""Frames written by hand and by protobuf are the same to both, and nothing else gets through."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import PeerError
from p2ptrain.exchange import frames
from p2ptrain.exchange.frames import MAX_FRAME_BYTES, ChunkFrame, decode, encode_chunk
from p2ptrain.wire.exchange_pb2 import Chunk, Commit, Done, Open, Ready, Refuse, SwapMessage

indices = st.integers(0, (1 << 32) - 1) | st.sampled_from([0, 1, 127, 128, 16383, 16384, (1 << 32) - 1])
payloads = st.binary(max_size=400) | st.integers(0, 70_000).map(bytes)
openings = st.builds(
    Open,
    exchange=st.binary(max_size=20),
    run=st.text(max_size=20),
    model=st.binary(max_size=40),
    size=st.integers(0, (1 << 64) - 1),
    chunk_size=st.integers(0, (1 << 32) - 1),
    codec=st.text(max_size=20),
    step=st.integers(0, (1 << 64) - 1),
    seed=st.integers(0, (1 << 64) - 1),
)
small_messages = (
    st.builds(lambda body: SwapMessage(open=body), openings)
    | st.builds(lambda reason, detail: SwapMessage(refuse=Refuse(reason=reason, detail=detail)), st.text(), st.text())
    | st.sampled_from([SwapMessage(ready=Ready()), SwapMessage(commit=Commit()), SwapMessage(done=Done())])
)


def varint(value: int) -> bytes:
    found = bytearray()
    frames._put_varint(found, value)
    return bytes(found)


def field(number: int, value: int | bytes) -> bytes:
    """One field as protobuf writes it: a varint, or something with a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def attempt(message: bytes) -> ChunkFrame | SwapMessage | None:
    """None when it is refused; anything but a `PeerError` is a bug."""
    with contextlib.suppress(PeerError):
        return decode(message)
    return None


@given(index=indices, payload=payloads)
def test_protobuf_reads_what_we_write(index: int, payload: bytes) -> None:
    parsed = SwapMessage.FromString(encode_chunk(index, payload))
    assert parsed.WhichOneof("body") == "chunk"
    assert parsed.chunk.index == index
    assert parsed.chunk.payload == payload


@given(index=indices, payload=payloads)
def test_we_read_what_we_write_and_what_protobuf_writes(index: int, payload: bytes) -> None:
    for encoded in (
        encode_chunk(index, payload),
        SwapMessage(chunk=Chunk(index=index, payload=payload)).SerializeToString(),
    ):
        for message in (encoded, bytearray(encoded), memoryview(encoded)):
            frame = decode(message)
            assert isinstance(frame, ChunkFrame)
            assert frame.index == index
            assert bytes(frame.payload) == payload


@given(index=indices, payload=payloads)
def test_our_chunks_parse_without_protobuf_and_without_a_copy(index: int, payload: bytes) -> None:
    encoded = encode_chunk(index, payload)
    frame = frames._decode_chunk(memoryview(encoded))
    assert frame is not None
    assert frame.payload.obj is encoded
    assert (len(encoded) - len(payload)) % 8 == 0, "the payload starts where floats may"


@given(message=small_messages)
def test_the_other_messages_come_back_as_they_are(message: SwapMessage) -> None:
    assert decode(message.SerializeToString()) == message


@given(index=indices, payload=payloads, unknown=st.binary(max_size=20))
def test_unusual_but_legal_layouts_of_a_chunk(index: int, payload: bytes, unknown: bytes) -> None:
    plain = field(1, index) + field(2, payload)
    layouts = [
        field(2, field(2, payload) + field(1, index)),
        field(2, plain + field(9, unknown)),
        field(2, field(9, unknown) + plain),
        field(2, field(1, index) + field(2, b"superseded") + field(2, payload)),
        field(2, plain) + field(100, unknown),
        field(100, unknown) + field(2, plain),
        field(2, field(1, index)) + field(2, field(2, payload)),  # two parts of one message are merged
        field(5, b"") + field(2, plain),  # the last of a oneof counts
        varint(2 << 3 | 2) + padded_varint(len(plain)) + field(1, index) + field(2, payload),
    ]
    for layout in layouts:
        parsed = SwapMessage.FromString(layout)
        assert (parsed.chunk.index, parsed.chunk.payload) == (index, payload)
        frame = decode(layout)
        assert isinstance(frame, ChunkFrame)
        assert (frame.index, bytes(frame.payload)) == (index, payload)


def padded_varint(value: int) -> bytes:
    """The same number in five bytes."""
    return bytes((value >> shift) & 0x7F | (0x80 if shift < 28 else 0) for shift in range(0, 35, 7))


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"\x12" + tail))
def test_noise_is_a_peer_error_or_a_message_that_protobuf_reads_alike(noise: bytes) -> None:
    check_agreement(noise)


def check_agreement(message: bytes) -> None:
    """`decode` takes exactly what protobuf takes, and sees the same in it."""
    found = attempt(message)
    try:
        parsed = SwapMessage.FromString(message)
    except Exception:
        parsed = None
    if parsed is None or parsed.WhichOneof("body") is None:
        assert found is None
    elif isinstance(found, ChunkFrame):
        assert (found.index, bytes(found.payload)) == (parsed.chunk.index, parsed.chunk.payload)
    else:
        assert found == parsed


@given(index=indices, payload=st.binary(max_size=60), cut=st.integers(0, 200))
def test_a_truncated_chunk(index: int, payload: bytes, cut: int) -> None:
    encoded = encode_chunk(index, payload)
    if cut < len(encoded):
        assert attempt(encoded[:cut]) is None


@given(message=small_messages, cut=st.integers(0, 200))
def test_a_truncated_message(message: SwapMessage, cut: int) -> None:
    encoded = message.SerializeToString()
    if cut < len(encoded):
        assert attempt(encoded[:cut]) is None


@given(
    encoded=st.builds(encode_chunk, indices, st.binary(max_size=60))
    | small_messages.map(SwapMessage.SerializeToString),
    flips=st.lists(st.integers(0, 10_000), min_size=1, max_size=4),
)
def test_flipped_bits(encoded: bytes, flips: list[int]) -> None:
    damaged = bytearray(encoded)
    for flip in flips:
        damaged[flip // 8 % len(damaged)] ^= 1 << flip % 8
    check_agreement(bytes(damaged))


@given(index=indices, payload=st.binary(max_size=60), more=st.binary(min_size=1, max_size=20))
def test_something_after_the_chunk(index: int, payload: bytes, more: bytes) -> None:
    check_agreement(encode_chunk(index, payload) + more)


@pytest.mark.parametrize("excess", [-8, 0, 8])
def test_the_limit(excess: int) -> None:
    num_header_bytes = len(encode_chunk(1, bytes(MAX_FRAME_BYTES - 64))) - (MAX_FRAME_BYTES - 64)
    message = encode_chunk(1, bytes(MAX_FRAME_BYTES - num_header_bytes + excess))
    assert len(message) == MAX_FRAME_BYTES + excess
    if excess <= 0:
        assert isinstance(decode(message), ChunkFrame)
    else:
        with pytest.raises(PeerError) as caught:
            decode(message)
        assert caught.value.reason == "oversized"


def test_lengths_that_overflow_are_refused() -> None:
    for length in (b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\x7f", b"\xff" * 9 + b"\x01", b"\xff" * 11, b"\x80"):
        assert attempt(b"\x12" + length) is None
        assert attempt(b"\x12" + length + b"\x08\x00\x12\x01a") is None
        assert attempt(b"\x12\x05\x08\x00\x12" + length) is None


@pytest.mark.parametrize("index", [0, 127, 128, 16383, 16384, (1 << 32) - 1])
def test_payloads_start_where_floats_may_whatever_their_length(index: int) -> None:
    for length in [*range(256), *range(16384 - 64, 16384 + 64), (1 << 21) - 20, 1 << 21]:
        assert (len(encode_chunk(index, bytes(length))) - length) % 8 == 0
