import dataclasses
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import PeerError
from p2ptrain.swarm.records import Record, is_address, peer_id_of, seal, verify
from p2ptrain.wire.membership_pb2 import PeerRecord, SignedRecord

NOW = 1_800_000_000.0
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key().public_bytes_raw()
RECORD = Record(
    peer=peer_id_of(PUBLIC),
    name="node-3",
    slot=3,
    addresses=("10.0.0.1:7000", "host.example:1", "[::1]:65535"),
    dht=("/ip4/10.0.0.1/tcp/7001/p2p/12D3KooW",),
    certificate=b"certificate",
    sequence=7,
    expires_unix_s=NOW + 30,
)


def sealed(swarm: str = "swarm", key: str | None = "swarm key", **changes: Any) -> bytes:
    return seal(dataclasses.replace(RECORD, **changes), swarm, key, PUBLIC, PRIVATE.sign)


def refusal(signed: bytes, key: str | None = "swarm key", now: float = NOW) -> str:
    with pytest.raises(PeerError) as raised:
        verify(signed, "swarm", key, now)
    return raised.value.reason


@pytest.mark.parametrize("key", ["swarm key", None])
def test_a_record_comes_back_as_it_was(key: str | None) -> None:
    assert verify(sealed(key=key), "swarm", key, NOW) == RECORD
    assert RECORD.contact.addresses == RECORD.addresses


@pytest.mark.parametrize(
    ("reason", "signed"),
    [
        ("oversized", bytes(8193)),
        ("foreign-key", b""),
        ("malformed", b"\xff" * 100),
        ("foreign-key", sealed(key=None)),
        ("foreign-key", sealed(key="another key")),
        ("wrong-swarm", sealed(swarm="swirm")),
        ("expired", sealed(expires_unix_s=NOW)),
        ("too-far-ahead", sealed(expires_unix_s=NOW + 3601)),
        ("bad-certificate", sealed(certificate=bytes(2049))),
        ("malformed", sealed(name="n" * 65)),
        ("malformed", sealed(name="a\x1b[31m")),
        ("malformed", sealed(slot=1 << 20)),
        ("bad-address", sealed(addresses=("10.0.0.1:1",) * 9)),
        ("bad-address", sealed(addresses=("10.0.0.1",))),
        ("bad-address", sealed(addresses=("unix:/tmp/socket",))),
        ("bad-address", sealed(dht=("x" * 300,))),
        ("bad-address", sealed(dht=("ip4",))),
    ],
)  # fmt: skip
def test_refusals(reason: str, signed: bytes) -> None:
    assert refusal(signed) == reason


def test_a_member_cannot_sign_for_another() -> None:
    other = Ed25519PrivateKey.generate()
    assert refusal(seal(RECORD, "swarm", "swarm key", PUBLIC, other.sign)) == "bad-signature"
    # with its own key it is simply another peer
    own = other.public_key().public_bytes_raw()
    assert verify(seal(RECORD, "swarm", None, own, other.sign), "swarm", None, NOW).peer == peer_id_of(own)


def test_padding_is_refused() -> None:
    """Or else others could be made to pass on bytes that nobody signed."""
    outer = SignedRecord.FromString(sealed())
    assert refusal(sealed() + b"\x7a\x03abc") == "malformed"
    assert refusal(outer.SerializeToString() + outer.SerializeToString()) == "malformed"


def test_a_field_of_a_later_version_is_no_reason_to_refuse() -> None:
    inner = SignedRecord.FromString(sealed(key=None)).record + b"\x7a\x03abc"
    PeerRecord.FromString(inner)
    later = SignedRecord(record=inner, signature=PRIVATE.sign(b"p2ptrain-record-v1" + inner)).SerializeToString()
    assert verify(later, "swarm", None, NOW) == RECORD


@pytest.mark.parametrize("key", ["swarm key", None])
@given(data=st.data())
def test_no_bit_may_change(key: str | None, data: st.DataObject) -> None:
    signed = bytearray(sealed(key=key))
    bit = data.draw(st.integers(0, 8 * len(signed) - 1))
    signed[bit // 8] ^= 1 << bit % 8
    refusal(bytes(signed), key)


@pytest.mark.parametrize("key", ["swarm key", None])
@given(data=st.data())
def test_nothing_may_be_missing(key: str | None, data: st.DataObject) -> None:
    signed = sealed(key=key)
    refusal(signed[: data.draw(st.integers(0, len(signed) - 1))], key)


@given(noise=st.binary(max_size=400), key=st.sampled_from(["swarm key", None]))
def test_noise_is_only_ever_a_peer_error(noise: bytes, key: str | None) -> None:
    refusal(noise, key)
    framed = SignedRecord(record=noise, signature=PRIVATE.sign(b"p2ptrain-record-v1" + noise)).SerializeToString()
    refusal(framed, None)


@given(st.text(max_size=40))
def test_addresses_are_judged_without_exceptions(text: str) -> None:
    if is_address(text):
        host, _, port = text.rpartition(":")
        assert host
        assert 0 < int(port) < 65536


def test_addresses() -> None:
    for good in ("a:1", "node-3.site.example:7000", "127.0.0.1:65535", "[fe80::1]:80", "my_host:99"):
        assert is_address(good), good
    for bad in (
        "",
        ":1",
        "a:",
        "a:0",
        "a:65536",
        "a:\uff11",
        "a b:1",
        "-a:1",
        "a/b:1",
        "fe80::1:80",
        "a:1:2",
        "a" * 300 + ":1",
    ):
        assert not is_address(bad), bad
