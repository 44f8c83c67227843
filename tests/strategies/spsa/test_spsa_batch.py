"""Batches: small, canonical, and harmless whatever comes instead."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onebyte_swarm import identity_of

from p2ptrain.errors import PeerError
from p2ptrain.network.identity import Identity
from p2ptrain.strategies.spsa.ledger.batch import BYTES_MAX, Batch, Run, decode, encode

RUN = b"r" * 32
CONTENT = st.binary(min_size=1, max_size=5).filter(lambda content: 0x80 not in content)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    scales = st.sampled_from([-5, -5, -4, 0, 40, -40])
    gaps = draw(st.lists(st.tuples(st.sampled_from([1, 1, 1, 2, 300]), st.integers(0, 2), CONTENT, scales), min_size=1))
    runs, number = [], draw(st.integers(-1, 2**31))
    for gap, *said in gaps:
        number += gap
        runs.append(Run(number, *said))
    return Batch(draw(st.integers(0, 2**32 - 1)), tuple(runs), draw(st.binary(min_size=64, max_size=64)))


def decoded(data: bytes) -> Batch | None:
    """None for what is refused; any other error is one too many."""
    with suppress(PeerError):
        return decode(data)
    return None


@given(batches())
def test_they_survive_the_way(batch: Batch) -> None:
    assert decode(encode(batch)) == batch


@given(batches(), st.data())
def test_a_part_of_one_is_refused(batch: Batch, data: st.DataObject) -> None:
    record = encode(batch)
    cut = data.draw(st.integers(0, len(record) - 1))
    for part in (record[:cut], record[cut + 1 :]):
        # What is missing at either end may be made up by the signature's bytes, but never goes unnoticed.
        assert decoded(part) != batch


@settings(max_examples=500)
@given(st.one_of(st.binary(max_size=200), st.builds(bytes.__add__, st.binary(max_size=40), st.just(bytes(64)))))
def test_garbage_is_refused_or_is_the_one_encoding_of_something(data: bytes) -> None:
    found = decoded(data)
    assert found is None or encode(found) == data


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed"),
        (b"\x00\x00", "malformed"),
        (b"\x00\x01\x00\x00\x00\x01\x06", "malformed"),
        (b"\x00\x01\x00\x00\x01\x01\x06\x80", "malformed"),
        (b"\x00\x01\x00\x00\x01\x01\x51\x05", "malformed"),
        (b"\x80\x00\x01\x00\x00\x01\x01\x06\x05", "malformed"),
        (b"\x00\x01\xff\xff\xff\xff\xff\x01\x00\x01\x01\x06\x05", "malformed"),
        (b"\x00\x01\x00\x00\xff\xff\xff\xff\x0f\xff\xff\xff\xff\x0f\x06", "oversized"),
        (b"\x00\xff\xff\xff\xff\x0f", "malformed"),
        (bytes(1 << 16), "oversized"),
    ],
)
def test_what_is_wrong_is_named(body: bytes, reason: str) -> None:
    with pytest.raises(PeerError) as caught:
        decode(body + bytes(64))
    assert caught.value.reason == reason


def test_a_round_trip_of_rounds_costs_about_a_byte_each() -> None:
    batch = Batch(3, tuple(Run(1000 + number, 0, b"\x11", -6) for number in range(32)), bytes(64))
    assert len(encode(batch)) == 32 + 64 + 8
    assert batch.count == 32
    assert batch.count < BYTES_MAX


def test_a_signature_holds_for_its_slot_run_and_bytes() -> None:
    key = identity_of(1)
    batch = Batch(1, (Run(5, 0, b"\x11", -6),)).sign(RUN, key.sign)
    batch.check_signature(RUN, key.public_key, Identity.verify)
    others = [
        (Batch(2, batch.runs, batch.signature), RUN, key),
        (Batch(1, (Run(5, 0, b"\x12", -6),), batch.signature), RUN, key),
        (Batch(1, (Run(6, 0, b"\x11", -6),), batch.signature), RUN, key),
        (Batch(1, (Run(5, 0, b"\x11", -5),), batch.signature), RUN, key),
        (batch, b"s" * 32, key),
        (batch, RUN, identity_of(2)),
        (Batch(1, batch.runs, b""), RUN, key),
    ]
    for other, run, signer in others:
        with pytest.raises(PeerError, match="bad-signature"):
            other.check_signature(run, signer.public_key, Identity.verify)
