"""What a peer says of itself, signed: built, sealed and verified here, and nowhere else.

A record travels through strangers (the DHT, other peers), so nothing of it is believed before `verify` returns:

    signed by the Ed25519 key that the peer id is the hash of     nobody can speak for another peer
    a MAC made with the swarm key                                 strangers are out, at the cost of a hash
    the swarm's name, an expiry not too far ahead, bounded sizes  old and foreign records die by themselves
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2ptrain.errors import PeerError
from p2ptrain.messages import parse
from p2ptrain.ports import Contact, PeerId, peer_id_of
from p2ptrain.wire.membership_pb2 import PeerRecord, SignedRecord

SIZE_BYTES_MAX = 8192
CERTIFICATE_BYTES_MAX = 2048
ADDRESSES_MAX = 8
ADDRESS_LENGTH_MAX = 255
NAME_LENGTH_MAX = 64
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
"""What runs and nodes may be called: it becomes a part of file names and invites."""
SLOT_MAX = (1 << 20) - 1
AHEAD_S_MAX = 3600.0

_PREFIX = b"p2ptrain-record-v1"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]")
_PRINTABLE = re.compile(r"[ -~]*")


@dataclass(frozen=True)
class Record:
    """A `PeerRecord` that was verified, or that is about to be sealed."""

    peer: PeerId
    name: str
    slot: int
    addresses: tuple[str, ...]
    """host:port of its gRPC server, tried in order."""
    dht: tuple[str, ...]
    """Multiaddrs of its DHT node."""
    certificate: bytes
    """DER; empty where there is no TLS. The signature binds it to the peer, so nobody needs to parse it."""
    sequence: int
    """Grows with every new record of the peer; the highest counts."""
    expires_unix_s: float

    @property
    def contact(self) -> Contact:
        return Contact(self.addresses, self.certificate)


def is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is the Ed25519 key's over `message`; False for anything malformed."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=16)
def swarm_secret(key: str, purpose: str) -> bytes:
    """32 bytes for one purpose. Stretched: a key that a person chose must not be cheap to guess from public records."""
    stretched = hashlib.scrypt(key.encode(), salt=b"p2ptrain-swarm-key-v1", n=1 << 13, r=8, p=1, dklen=32)
    return hmac.digest(stretched, purpose.encode(), "sha256")


def seal(record: Record, swarm: str, key: str | None, public_key: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The signed record, ready for the wire; `sign` is the private half of `public_key`."""
    inner = PeerRecord(
        public_key=public_key,
        swarm=swarm,
        name=record.name,
        slot=record.slot,
        addresses=record.addresses,
        dht=record.dht,
        certificate=record.certificate,
        sequence=record.sequence,
        expires_unix_ms=round(record.expires_unix_s * 1000),
    ).SerializeToString()
    return _pack(inner, sign(_PREFIX + inner), _proof(inner, key))


def verify(signed: bytes, swarm: str, key: str | None, now_unix_s: float) -> Record:
    """The record in `signed`, if it may be believed now.

    Raises `PeerError`: `oversized`, `malformed`, `foreign-key`, `bad-signature`, `wrong-swarm`, `bad-address`,
    `bad-certificate`, `expired`, `too-far-ahead`."""
    if len(signed) > SIZE_BYTES_MAX:
        raise PeerError("oversized", f"record of {len(signed)} bytes")
    record = unseal(bytes(signed), swarm, key)
    ahead_s = record.expires_unix_s - now_unix_s
    if ahead_s <= 0:
        raise PeerError("expired", f"record of {record.name} expired {-ahead_s:.1f} s ago")
    if ahead_s > AHEAD_S_MAX:
        raise PeerError("too-far-ahead", f"record of {record.name} expires {ahead_s:.0f} s ahead")
    return record


# Every heartbeat carries its sender's record, mostly the same one: the cache saves the signature check (0.1 ms).
@lru_cache(maxsize=2048)
def unseal(signed: bytes, swarm: str, key: str | None) -> Record:
    """The part of `verify` that does not depend on the time, nor on whose clock is right."""
    outer = parse(SignedRecord(), signed)
    if _pack(outer.record, outer.signature, outer.membership) != signed:
        raise PeerError("malformed", "record is not in its canonical encoding")
    if not hmac.compare_digest(outer.membership, _proof(outer.record, key)):
        raise PeerError("foreign-key", "record is not signed with this swarm's key")
    inner = parse(PeerRecord(), outer.record)
    if not is_signed(inner.public_key, _PREFIX + outer.record, outer.signature):
        raise PeerError("bad-signature", "record's signature is not its key's")
    if inner.swarm != swarm:
        raise PeerError("wrong-swarm", f"record is of swarm {inner.swarm[:NAME_LENGTH_MAX]!r}, this one is {swarm!r}")
    _check(inner)
    return Record(
        peer=peer_id_of(inner.public_key),
        name=inner.name,
        slot=inner.slot,
        addresses=tuple(inner.addresses),
        dht=tuple(inner.dht),
        certificate=inner.certificate,
        sequence=inner.sequence,
        expires_unix_s=inner.expires_unix_ms / 1000,
    )


def _check(inner: PeerRecord) -> None:
    if len(inner.name) > NAME_LENGTH_MAX or not inner.name.isprintable() or inner.slot > SLOT_MAX:
        raise PeerError("malformed", "name or slot out of bounds")
    if len(inner.certificate) > CERTIFICATE_BYTES_MAX:
        raise PeerError("bad-certificate", f"certificate of {len(inner.certificate)} bytes")
    if max(len(inner.addresses), len(inner.dht)) > ADDRESSES_MAX:
        raise PeerError("bad-address", f"{len(inner.addresses)} addresses, {len(inner.dht)} multiaddrs")
    for address in inner.addresses:
        if not is_address(address):
            raise PeerError("bad-address", f"not host:port: {address[:80]!r}")
    for multiaddr in inner.dht:
        if len(multiaddr) > ADDRESS_LENGTH_MAX or multiaddr[:1] != "/" or not _PRINTABLE.fullmatch(multiaddr):
            raise PeerError("bad-address", f"not a multiaddr: {multiaddr[:80]!r}")


def is_address(text: str) -> bool:
    """host:port that can be dialled; an IPv6 host stands in brackets."""
    host, _, port = text.rpartition(":")
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    return len(text) <= ADDRESS_LENGTH_MAX and bool(_HOST.fullmatch(host)) and digits and 0 < int(port) < 65536


def _pack(record: bytes, signature: bytes, membership: bytes) -> bytes:
    return SignedRecord(record=record, signature=signature, membership=membership).SerializeToString()


def _proof(inner: bytes, key: str | None) -> bytes:
    return b"" if key is None else hmac.digest(swarm_secret(key, "membership"), _PREFIX + inner, "sha256")
