"""The messages of a swap as bytes, wire-compatible with `protos/p2ptrain/v1/exchange.proto`.

Small messages go through protobuf. A `Chunk` carries up to a mebibyte of payload and is framed by hand, so that the
payload is copied once on the way out and not at all on the way in.
"""

from dataclasses import dataclass

from p2ptrain.errors import PeerError
from p2ptrain.ports import Bytes
from p2ptrain.wire.exchange_pb2 import SwapMessage

MAX_FRAME_BYTES = 5 << 20
"""No message is longer; the transport refuses longer ones before buffering them."""

_CHUNK_TAG = 0x12  # SwapMessage.chunk: field 2, length-delimited
_INDEX_TAG = 0x08  # Chunk.index: field 1, varint
_PAYLOAD_TAG = 0x12  # Chunk.payload: field 2, length-delimited


@dataclass(frozen=True)
class ChunkFrame:
    """One chunk as received; `payload` is a view into the message."""

    index: int
    payload: memoryview


def encode_chunk(index: int, payload: Bytes) -> bytes:
    """`SwapMessage(chunk=Chunk(index, payload))`, serialised."""
    inner = bytearray()
    if index:  # protobuf leaves zeros out
        inner.append(_INDEX_TAG)
        _put_varint(inner, index)
    inner.append(_PAYLOAD_TAG)
    _put_varint(inner, len(payload))
    outer = bytearray([_CHUNK_TAG])
    _put_varint(outer, len(inner) + len(payload))
    return b"".join((outer, inner, payload))


def decode(message: Bytes) -> ChunkFrame | SwapMessage:
    """Parse one message of a swap; raises `PeerError("malformed")` on anything that is not exactly one."""
    view = memoryview(message)
    if len(view) > MAX_FRAME_BYTES:
        raise PeerError("oversized", f"{len(view)} bytes")
    if len(view) > 0 and view[0] == _CHUNK_TAG:
        frame = _decode_chunk(view)
        if frame is not None:
            return frame
    parsed = SwapMessage()
    try:
        parsed.ParseFromString(bytes(view))
    except Exception as error:  # protobuf's DecodeError has moved between releases
        raise PeerError("malformed", f"not a swap message: {type(error).__name__}") from None
    body = parsed.WhichOneof("body")
    if body is None:
        raise PeerError("malformed", "empty swap message")
    if body == "chunk":  # correct, but laid out otherwise than we lay it out
        return ChunkFrame(parsed.chunk.index, memoryview(parsed.chunk.payload))
    return parsed


def _decode_chunk(view: memoryview) -> ChunkFrame | None:
    """The layout that `encode_chunk` writes, which is protobuf's canonical one; None for any other."""
    try:
        length, at = _varint(view, 1)
        if at + length != len(view):
            return None
        index = 0
        if view[at] == _INDEX_TAG:
            index, at = _varint(view, at + 1)
        if at == len(view) or view[at] != _PAYLOAD_TAG:
            return None
        length, at = _varint(view, at + 1)
    except (IndexError, ValueError):
        return None
    return ChunkFrame(index, view[at:]) if at + length == len(view) and index < 1 << 32 else None


def _put_varint(buffer: bytearray, value: int) -> None:
    while value > 0x7F:
        buffer.append(value & 0x7F | 0x80)
        value >>= 7
    buffer.append(value)


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """(value, where it ends); raises `IndexError` at the end of the data and `ValueError` past five bytes."""
    value = 0
    for shift in range(0, 35, 7):
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("varint too long")
