"""Who tells two peers two things is proven to have done so, to everybody, and is shunned for a while."""

import asyncio
import random
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import PeerError
from p2ptrain.exchange.reputation import (
    BACK,
    FAR,
    HALF_LIFE_S,
    MAX_BLAME,
    MAX_FAR,
    MAX_PEERS,
    PROVEN,
    QUARANTINED,
    SUSPECTED,
    Reputation,
)
from p2ptrain.exchange.statements import Author, Statement, checked, digest_of
from p2ptrain.exchange.witness import COMPARE, MAX_NUMBERS, MAX_PROOFS, Witness
from p2ptrain.ports import Contact, PeerId
from p2ptrain.simulation.links import LAN, Links
from p2ptrain.telemetry.events import Event, Suspected
from p2ptrain.wire import exchange_pb2 as pb


def author(index: int, run: str = "run", now: Callable[[], float] = lambda: 1.0) -> Author:
    key = Ed25519PrivateKey.from_private_bytes(index.to_bytes(32, "big"))
    return Author(run, key.public_key().public_bytes_raw(), key.sign, now)


def digest(text: str) -> bytes:
    return digest_of(text, 1, [])


class Peer:
    def __init__(self, links: Links, index: int) -> None:
        self.author = author(index)
        self.id = self.author.state(1, digest("")).peer
        self.events: list[Event] = []
        self.transport = links.transport(self.id, f"host-{index}:1")
        self.reputation = Reputation(self.events.append, lambda: asyncio.get_running_loop().time())
        self.witness = Witness("run", self.id, self.transport, self.reputation, random.Random(index))


def peers(count: int) -> list[Peer]:
    links = Links(random.Random(0), LAN)
    made = [Peer(links, index + 1) for index in range(count)]
    for peer in made:
        for other in made:
            peer.transport.learn(other.id, Contact(("",), b""))
    return made


def proof(one: Statement, other: Statement) -> bytes:
    return pb.Evidence(proofs=[pb.Proof(one=one.encoded(), other=other.encoded())]).SerializeToString()


# Statements


def test_a_statement_survives_the_wire_and_nothing_else_does() -> None:
    said = author(1).state(5, digest("a"))
    assert checked(said.encoded(), "run") == said
    for field, value in (("number", 6), ("digest", digest("b")), ("key", author(2).key), ("signature", b"x" * 64)):
        changed = said.encoded()
        setattr(changed, field, value)
        with pytest.raises(PeerError, match="bad-signature"):
            checked(changed, "run")
    with pytest.raises(PeerError, match="bad-signature"):
        checked(said.encoded(), "another run")


@given(st.binary(max_size=40), st.integers(0, 2**64 - 1), st.binary(max_size=40), st.binary(max_size=80))
def test_what_nobody_signed_is_refused(key: bytes, number: int, digest: bytes, signature: bytes) -> None:
    with pytest.raises(PeerError):
        checked(pb.Statement(key=key, number=number, digest=digest, signature=signature), "run")


def test_numbers_grow_even_when_the_clock_does_not() -> None:
    now = [100.0]
    one = author(1, now=lambda: now[0])
    first = [one.next_number() for _ in range(3)]
    now[0] = 50.0
    assert first == sorted(set(first))
    assert one.next_number() > first[-1]
    assert author(1, now=lambda: 100.001).next_number() > first[-1]  # the same node, started again


def test_a_digest_is_of_the_codec_the_cut_and_the_payloads() -> None:
    found = {
        digest_of("a", 1, [b"xy"]), digest_of("a", 2, [b"xy"]), digest_of("b", 1, [b"xy"]), digest_of("a", 1, [b"xz"]),
        digest_of("a", 1, [b"x", b"y"]), digest_of("a", 1, [b"xy", b""]),
    }  # fmt: skip
    assert len(found) == 6
    assert digest_of("a", 1, [bytearray(b"xy")]) == digest_of("a", 1, [memoryview(b"xy")]) == digest_of("a", 1, [b"xy"])


# Witness


async def test_two_that_were_told_different_things_find_out_and_tell_others() -> None:
    one, other, third, liar = peers(4)
    one.witness.hear(liar.author.state(7, digest("a")))
    other.witness.hear(liar.author.state(7, digest("b")))
    await one.witness.compare(other.id)
    assert one.reputation.shuns(liar.id)
    assert not other.reputation.shuns(liar.id)
    await other.witness.compare(one.id)
    await third.witness.compare(other.id)  # it has heard nothing itself
    for peer in (one, other, third):
        assert peer.reputation.shuns(liar.id)
        assert [event.level for event in peer.events if isinstance(event, Suspected)] == ["quarantined"]
        found = peer.witness.proof(liar.id)
        assert found is not None
        assert found.one.contradicts(found.other)


async def test_the_same_told_to_all_or_told_twice_is_no_lie() -> None:
    one, other, honest = peers(3)
    for number in range(1, 2 * MAX_NUMBERS):
        for peer in (one, other):
            peer.witness.hear(honest.author.state(number, digest(str(number))))
            peer.witness.hear(honest.author.state(number, digest(str(number))))
    await one.witness.compare(other.id)
    await other.witness.compare(one.id)
    assert one.events == other.events == []


async def test_a_liar_that_tells_one_peer_both_is_caught_by_it() -> None:
    one, liar = peers(2)
    one.witness.hear(liar.author.state(7, digest("a")))
    one.witness.hear(liar.author.state(7, digest("b")))
    assert one.reputation.shuns(liar.id)


async def test_one_lie_is_punished_once_and_the_next_one_anew() -> None:
    one, other, liar = peers(3)
    for number, peer in ((7, one), (7, other), (8, one), (8, other)):
        peer.witness.hear(liar.author.state(number, digest(peer.id)))
    await one.witness.compare(other.id)
    blame = one.reputation.of(liar.id)
    for _ in range(3):
        await one.witness.compare(other.id)
    assert one.reputation.of(liar.id) <= blame <= 2 * PROVEN
    one.witness.hear(liar.author.state(9, digest("a")))
    other.witness.hear(liar.author.state(9, digest("b")))
    await one.witness.compare(other.id)
    assert one.reputation.of(liar.id) > blame


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (b"\xff\xff", "malformed"),
        (pb.Evidence(proofs=[pb.Proof()] * (MAX_PROOFS + 1)).SerializeToString(), "oversized"),
        (pb.Evidence(statements=[pb.Statement()]).SerializeToString(), "malformed"),
        (
            pb.Evidence(statements=[pb.Statement(key=b"k" * 32, number=1, digest=b"d" * 32)]).SerializeToString(),
            "bad-signature",
        ),
        (proof(author(3).state(1, digest("a")), author(3).state(2, digest("b"))), "proves nothing"),
        (proof(author(3).state(1, digest("a")), author(4).state(1, digest("b"))), "proves nothing"),
    ],
)
async def test_nobody_is_slandered(evidence: bytes, reason: str) -> None:
    one, slanderer, accused, _ = peers(4)

    async def answer(peer: PeerId, request: object) -> bytes:
        return evidence

    slanderer.transport.serve(COMPARE, answer)
    with pytest.raises(PeerError, match=reason):
        await one.witness.compare(slanderer.id)
    assert one.reputation.of(accused.id) == 0.0


async def test_a_node_is_not_its_own_judge() -> None:
    one, other = peers(2)
    one.witness.hear(one.author.state(1, digest("a")))
    other.witness.hear(one.author.state(1, digest("b")))
    await one.witness.compare(other.id)
    assert one.events == []


async def test_only_the_latest_of_the_latest_peers_are_kept() -> None:
    one, other, liar = peers(3)
    for number in range(1, 1000):
        one.witness.hear(liar.author.state(number, digest("a")))
    other.witness.hear(liar.author.state(1, digest("b")))
    other.witness.hear(liar.author.state(999, digest("a")))
    await other.witness.compare(one.id)
    assert other.events == []
    assert len(one.witness._all_heard().digests) == MAX_NUMBERS


# Reputation


@pytest.fixture
def told() -> list[Event]:
    return []


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def standing(told: list[Event]) -> tuple[Reputation, Clock]:
    clock = Clock()
    return Reputation(told.append, clock), clock


A = PeerId("a")


def levels(told: list[Event]) -> list[str]:
    return [event.level for event in told if isinstance(event, Suspected)]


def test_blame_is_forgotten_and_the_way_back_is_told(told: list[Event]) -> None:
    reputation, clock = standing(told)
    assert reputation.trust(A) == 1.0
    for _ in range(int(QUARANTINED)):
        assert not reputation.shuns(A)
        reputation.blame(A, "malformed")
    assert reputation.shuns(A)
    assert reputation.trust(A) == 2.0**-QUARANTINED
    clock.now = HALF_LIFE_S * 0.99
    assert reputation.shuns(A)
    clock.now = HALF_LIFE_S * 1.01
    assert reputation.of(A) < BACK
    assert not reputation.shuns(A)
    assert levels(told) == ["suspected", "quarantined", "readmitted"]
    reputation.blame(A, "malformed")
    assert levels(told)[3:] == ["suspected"]


def test_a_proof_is_enough_and_there_is_always_a_way_back(told: list[Event]) -> None:
    reputation, clock = standing(told)
    reputation.blame(A, "equivocation", PROVEN)
    assert reputation.shuns(A)
    for _ in range(100):
        reputation.blame(A, "equivocation", PROVEN)
    assert reputation.of(A) == MAX_BLAME
    clock.now = 5 * HALF_LIFE_S
    assert not reputation.shuns(A)


def test_chance_never_brings_anybody_into_quarantine(told: list[Event]) -> None:
    reputation, _ = standing(told)
    for _ in range(1000):
        reputation.blame(A, "far from the others", FAR, MAX_FAR)
    assert SUSPECTED < reputation.of(A) <= MAX_FAR < QUARANTINED
    assert levels(told) == ["suspected"]
    for _ in range(3):
        reputation.blame(A, "malformed")
    before = reputation.of(A)
    reputation.blame(A, "far from the others", FAR, MAX_FAR)
    assert reputation.of(A) == before  # it does not lower what is there either


def test_the_blame_of_one_is_not_anothers_and_memory_is_bounded(told: list[Event]) -> None:
    reputation, _ = standing(told)
    for index in range(MAX_PEERS + 10):
        reputation.blame(PeerId(str(index)), "malformed")
    assert reputation.of(PeerId("0")) == 0.0
    assert reputation.of(PeerId("10")) == 1.0
    assert len(reputation._standings) == MAX_PEERS


def test_statements_of_two_keys_do_not_contradict() -> None:
    one, other = author(1).state(1, digest("a")), author(2).state(1, digest("b"))
    assert not one.contradicts(other)
    assert not one.contradicts(Statement(one.key, 2, digest("b"), b""))
