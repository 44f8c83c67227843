"""The messages of a swap as bytes, wire-compatible with `protos/p2ptrain/v1/exchange.proto`.

Small messages go through protobuf. A `Chunk` carries a mebibyte or so of payload and is framed by hand, so that the
payload is copied once on the way out and not at all on the way in; padding lets it start where floats may.
"""

from dataclasses import dataclass

from p2ptrain.errors import PeerError
from p2ptrain.ports import Bytes
from p2ptrain.wire.exchange_pb2 import SwapMessage

MAX_FRAME_BYTES = 5 << 20
"""No message is longer; the transport refuses longer ones before buffering them."""
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - 64
"""The rest is for what is around it."""

_CHUNK_TAG = 0x12  # SwapMessage.chunk: field 2, length-delimited
_INDEX_TAG = 0x08  # Chunk.index: field 1, varint
_PAYLOAD_TAG = 0x12  # Chunk.payload: field 2, length-delimited
_PADDING_TAG = 0x1A  # Chunk.padding: field 3, length-delimited
_ALIGNMENT = 8


@dataclass(frozen=True)
class ChunkFrame:
    """One chunk as received; `payload` is a view into the message."""

    index: int
    payload: memoryview


def encode_chunk(index: int, payload: Bytes) -> bytes:
    """`SwapMessage(chunk=Chunk(index, payload, padding))`, serialised."""
    header, padding = _chunk_header(index, len(payload), 0), 0
    while len(header) % _ALIGNMENT:  # twice where the padding makes the frame's own length take one byte more
        padding += -len(header) % _ALIGNMENT
        header = _chunk_header(index, len(payload), padding)
    return b"".join((header, payload))


def _chunk_header(index: int, payload_length: int, padding: int) -> bytearray:
    inner = bytearray([_INDEX_TAG])
    _put_varint(inner, index)
    inner += bytes([_PADDING_TAG, padding, *bytes(padding), _PAYLOAD_TAG])
    _put_varint(inner, payload_length)
    header = bytearray([_CHUNK_TAG])
    _put_varint(header, len(inner) + payload_length)
    return header + inner


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
    """Fields in any order, the payload last, as `encode_chunk` writes them. None for any other layout."""
    try:
        length, at = _varint(view, 1)
        if at + length != len(view):
            return None
        index = 0
        while (tag := view[at]) != _PAYLOAD_TAG:
            value, at = _varint(view, at + 1)
            if tag == _INDEX_TAG:
                index = value
            elif tag == _PADDING_TAG:
                at += value
            else:
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
