"""What a peer signs of each vector that it shows: that it is this one, for everybody.

Two statements of one peer with the same number and different digests prove that it told two peers different things; the
proof needs no witness, so it can be passed on. A liar that never uses a number twice is not caught by this: it is one
whose model changes very often.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from p2ptrain.errors import PeerError
from p2ptrain.ports import Bytes, PeerId, peer_id_of
from p2ptrain.swarm.records import is_signed
from p2ptrain.wire import exchange_pb2 as pb

_PREFIX = b"p2ptrain-offer-v1"
MAX_NUMBER = (1 << 63) - 1


@dataclass(frozen=True)
class Statement:
    """Made by an `Author`, or `checked`."""

    key: bytes
    """Ed25519, 32 bytes."""
    number: int
    """In [1, 2^63); grows with everything that the peer shows."""
    digest: bytes
    """SHA-256, 32 bytes; see `digest_of`."""
    signature: bytes
    """64 bytes."""

    @property
    def peer(self) -> PeerId:
        return peer_id_of(self.key)

    def encoded(self) -> pb.Statement:
        return pb.Statement(key=self.key, number=self.number, digest=self.digest, signature=self.signature)

    def contradicts(self, other: "Statement") -> bool:
        """Whether the two prove that whoever signed them has lied."""
        return self.key == other.key and self.number == other.number and self.digest != other.digest


@dataclass
class Author:
    """Signs for one node."""

    run: str
    key: bytes
    sign: Callable[[bytes], bytes]
    now_unix: Callable[[], float]
    _last: int = field(default=0, init=False)

    def next_number(self) -> int:
        """By the clock, so that a node that starts again, without its memory, uses none twice."""
        self._last = max(self._last + 1, int(self.now_unix() * 1e6))
        return self._last

    def state(self, number: int, digest: bytes) -> Statement:
        return Statement(self.key, number, digest, self.sign(_message(self.run, number, digest)))


def checked(said: pb.Statement, run: str) -> Statement:
    """What came from the network, if its key has signed it. Raises `PeerError`."""
    if len(said.key) != 32 or len(said.digest) != 32 or not 0 < said.number <= MAX_NUMBER:
        raise PeerError("malformed", "bad statement")
    if not is_signed(said.key, _message(run, said.number, said.digest), said.signature):
        raise PeerError("bad-signature", "the statement's signature is not its key's")
    return Statement(said.key, said.number, said.digest, said.signature)


def digest_of(codec: str, chunk_size: int, payloads: Iterable[Bytes]) -> bytes:
    """Of an encoded vector: 32 bytes that no other one has."""
    found = start_digest(codec, chunk_size)
    for payload in payloads:
        add_to_digest(found, payload)
    return found.digest()


def start_digest(codec: str, chunk_size: int) -> "hashlib._Hash":
    """For payloads that come one by one."""
    return hashlib.sha256(f"{chunk_size} {codec}\n".encode())


def add_to_digest(digest: "hashlib._Hash", payload: Bytes) -> None:
    digest.update(len(payload).to_bytes(8, "big"))
    digest.update(payload)


def _message(run: str, number: int, digest: bytes) -> bytes:
    return _PREFIX + hashlib.sha256(run.encode()).digest() + number.to_bytes(8, "big") + digest
