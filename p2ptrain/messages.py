"""Protobuf messages from the network: bounded, then parsed, or a `PeerError`."""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from p2ptrain.errors import PeerError
from p2ptrain.ports import Bytes

M = TypeVar("M", bound=Message)


def parse(message: M, data: Bytes, size_bytes_max: int | None = None) -> M:
    """Fill the empty `message` from `data`; without a limit of its own it is as long as the transport lets it be."""
    if size_bytes_max is not None and len(data) > size_bytes_max:
        raise PeerError("oversized", f"{len(data)} bytes")
    try:
        message.ParseFromString(bytes(data))
    except DecodeError:
        raise PeerError("malformed", f"not a {type(message).__name__}") from None
    return message
