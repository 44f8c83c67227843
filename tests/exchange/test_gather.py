"""Peers show each other vectors; some lie."""

import asyncio
import random
from functools import partial

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor, nn

from p2ptrain import aggregators, attacks, codecs
from p2ptrain.errors import PeerBusy, PeerError
from p2ptrain.exchange.gather import MAX_ROUND, MAX_SHOWN, Gatherer
from p2ptrain.exchange.liar import Liar, see
from p2ptrain.exchange.reputation import Reputation
from p2ptrain.exchange.statements import Author
from p2ptrain.exchange.talk import Talk
from p2ptrain.exchange.witness import Witness
from p2ptrain.pace import Pace
from p2ptrain.ports import Contact, PeerId, peer_id_of
from p2ptrain.simulation.links import LAN, Links
from p2ptrain.telemetry.events import Event, Exchanged, Failed, Rejected
from p2ptrain.training.replica import Replica


def now() -> float:
    return asyncio.get_running_loop().time()


class Peer:
    """A node reduced to what it shows and is shown."""

    def __init__(self, links: Links, index: int, codec: str = "fp32", liar: Liar | None = None) -> None:
        key = Ed25519PrivateKey.from_private_bytes(index.to_bytes(32, "big"))
        public = key.public_key().public_bytes_raw()
        self.id = peer_id_of(public)
        self.events: list[Event] = []
        self.replica = Replica(nn.Linear(6, 6))
        transport = links.transport(self.id, f"host-{index}:1")
        talk = Talk(
            "test", self.replica, codecs.make(codec), Pace(), self.events.append, step=lambda: 0, ready=lambda: True
        )
        self.reputation = Reputation(self.events.append, now)
        self.witness = Witness("test", self.id, transport, self.reputation, random.Random(index))
        author = Author("test", public, key.sign, now)
        self.gatherer = Gatherer(self.id, transport, talk, random.Random(index), author, self.witness, liar)
        self.transport = transport

    def offer(self, value: float, step: int) -> Tensor:
        vector = torch.full((self.replica.size,), value)
        self.gatherer.offer(self.gatherer.prepare(vector, step))
        return vector

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)


def peers(count: int, codec: str = "fp32", liar: Liar | None = None, **faults: float) -> tuple[Links, list[Peer]]:
    """The last one is the liar."""
    links = Links(random.Random(0), LAN.model_copy(update=faults))
    made = [Peer(links, index, codec, liar if index == count - 1 else None) for index in range(count)]
    for peer in made:
        for other in made:
            peer.transport.learn(other.id, Contact(("",), b""))
    return links, made


async def test_both_are_shown_what_the_other_offers_and_not_what_they_have() -> None:
    _, (one, other) = peers(2)
    mine, theirs = one.offer(1.0, 5), other.offer(2.0, 7)
    await one.gatherer.share(other.id)
    assert torch.equal(one.gatherer.shown(0)[other.id], theirs)
    assert torch.equal(other.gatherer.shown(0)[one.id], mine)

    await one.gatherer.share(other.id)  # nothing is new
    assert one.count(Exchanged) == other.count(Exchanged) == 1

    newer = other.offer(3.0, 8)
    await one.gatherer.share(other.id)  # half is
    assert torch.equal(one.gatherer.shown(1)[other.id], newer)
    event = [event for event in one.events if isinstance(event, Exchanged)][-1]
    assert event.bytes_sent + 4 * len(newer) <= event.bytes_received


async def test_old_vectors_are_left_out() -> None:
    _, (one, other) = peers(2)
    one.offer(1.0, 0)
    other.offer(2.0, 0)
    await one.gatherer.share(other.id)
    for _ in range(3):
        assert list(one.gatherer.gather(3)) == [other.id]
    assert one.gatherer.shown(2) == {}
    assert list(one.gatherer.shown(3)) == [other.id]


async def test_who_has_nothing_to_show_says_so() -> None:
    _, (one, other) = peers(2)
    one.offer(1.0, 0)
    with pytest.raises(PeerError, match="not-ready"):
        await one.gatherer.share(other.id)
    assert one.gatherer.shown(0) == other.gatherer.shown(0) == {}


async def test_two_that_call_each_other_at_once_trade_once() -> None:
    _, (one, other) = peers(2)
    one.offer(1.0, 0)
    other.offer(2.0, 0)
    outcomes = await asyncio.gather(one.gatherer.share(other.id), other.gatherer.share(one.id), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [PeerBusy]
    assert one.count(Exchanged) == other.count(Exchanged) == 1
    assert one.gatherer.shown(0).keys() == {other.id}
    assert other.gatherer.shown(0).keys() == {one.id}


async def test_a_second_call_to_the_same_peer_is_refused_at_once() -> None:
    _, (one, other) = peers(2)
    one.offer(1.0, 0)
    other.offer(2.0, 0)
    outcomes = await asyncio.gather(*(one.gatherer.share(other.id) for _ in range(3)), return_exceptions=True)
    assert [outcome is None for outcome in outcomes].count(True) == 1


@pytest.mark.parametrize("seed", range(10))
async def test_a_cut_stream_leaves_whole_vectors_only(seed: int) -> None:
    links, (one, other) = peers(2, drop=0.0)
    links.rng, links.cut = random.Random(seed), 0.2
    for step in range(20):
        one.offer(float(step), step)
        other.offer(-float(step), step)
        for caller, called in ((one, other), (other, one)):
            try:
                await caller.gatherer.share(called.id)
            except PeerError:
                assert caller.count(Failed) > 0
        for peer, sign in ((one, -1), (other, 1)):
            for vector in peer.gatherer.shown(20).values():
                assert len(set(vector.tolist())) == 1
                assert sign * vector[0] >= 0
    assert one.count(Exchanged) > 0


async def test_no_more_peers_are_remembered_than_fit() -> None:
    _, (one, *others) = peers(MAX_SHOWN + 3)
    one.offer(1.0, 0)
    for index, other in enumerate(others):
        other.offer(1.0 + index, 0)
        await other.gatherer.share(one.id)
    assert len(one.gatherer.shown(0)) == MAX_SHOWN
    assert others[0].id not in one.gatherer.shown(0)


async def test_a_vector_of_another_world_is_refused() -> None:
    _, (one, other) = peers(2)
    one.offer(1.0, 0)
    other.offer(1e6, 0)
    with pytest.raises(PeerError):
        await other.gatherer.share(one.id)
    assert one.gatherer.shown(0) == {}
    assert any(isinstance(event, Rejected) and event.reason == "too-far" for event in one.events)


def liar(name: str, honest: dict[PeerId, Tensor], **options: object) -> Liar:
    return Liar(
        attacks.make(name, **options),
        aggregators.make("mean"),
        np.random.default_rng(0),
        lambda peer: see(honest, peer, int(peer, 16), 1),
    )


async def test_a_liar_is_honest_in_protocol_and_false_in_content() -> None:
    _, (one, other, bad) = peers(3, liar=liar("sign-flip", {}))
    for peer in (one, other, bad):
        peer.offer(2.0, 0)
    await one.gatherer.share(bad.id)
    await bad.gatherer.share(other.id)
    for honest in (one, other):
        assert float(honest.gatherer.shown(0)[bad.id][0]) < 0
        assert not honest.count(Rejected)
    assert float(bad.gatherer.shown(0)[one.id][0]) == 2.0


async def test_a_liar_that_sees_everyone_stays_among_them() -> None:
    honest: dict[PeerId, Tensor] = {}
    _, (one, other, bad) = peers(3, liar=liar("alie", honest, strength=1.0))
    for peer, value in ((one, 1.0), (other, 3.0), (bad, 2.0)):
        honest[peer.id] = peer.offer(value, 0)
    del honest[bad.id]
    await one.gatherer.share(bad.id)
    lie = float(one.gatherer.shown(0)[bad.id][0])
    assert lie == pytest.approx(2.0 - np.std([1, 3], ddof=1), rel=1e-5)


async def test_what_is_not_finite_is_never_sent() -> None:
    say = partial(liar("noise", {}, scale=1e38).say, torch.full((8,), 3e38))
    assert torch.isfinite(say(PeerId(f"{0:032x}"))).all()


async def test_what_comes_between_two_rounds_belongs_to_the_next() -> None:
    _, (one, other) = peers(2)
    one.offer(1.0, 0)
    other.offer(2.0, 0)
    await one.gatherer.share(other.id)
    assert list(one.gatherer.gather(0)) == [other.id]
    assert one.gatherer.shown(0) == {}
    other.offer(3.0, 1)
    await other.gatherer.share(one.id)  # while `one` takes its step
    one.offer(1.5, 1)
    assert list(one.gatherer.shown(0)) == [other.id]


async def test_who_was_busy_with_the_last_offer_is_shown_the_new_one() -> None:
    _, (one, other) = peers(2)
    one.offer(1.0, 0)
    other.offer(2.0, 0)
    call = asyncio.create_task(one.gatherer.share(other.id))
    for _ in range(10_000):
        if other.gatherer.answers(one.id):
            break
        await asyncio.sleep(1e-5)
    assert other.gatherer.answers(one.id)
    newer = other.offer(3.0, 1)
    await other.gatherer.share(one.id)
    await call
    assert torch.equal(one.gatherer.shown(0)[other.id], newer)


async def show(one: Peer, other: Peer, value: float, round: int) -> Tensor:
    """`one` goes on to another round, and calls."""
    vector = torch.full((one.replica.size,), value)
    one.gatherer.offer(one.gatherer.prepare(vector, 0, round))
    await one.gatherer.share(other.id)
    return vector


async def test_of_rounds_the_last_two_vectors_are_kept_and_shown() -> None:
    _, (one, other) = peers(2)
    other.offer(5.0, 0)
    sent = [await show(one, other, float(round), round) for round in (1, 2, 3)]
    found = [other.gatherer.shown_in(one.id, round) for round in (1, 2, 3, 4)]
    assert [shown is not None for shown in found] == [False, True, True, False]
    for shown, vector in zip(found[1:3], sent[1:], strict=True):
        assert shown is not None
        assert torch.equal(shown.vector, vector)
    assert other.gatherer.latest_round(one.id) == 3


async def test_who_is_a_round_behind_is_shown_the_vector_of_its_own() -> None:
    _, (one, other) = peers(2)
    other.gatherer.offer(other.gatherer.prepare(torch.full((other.replica.size,), 7.0), 0, 7))
    other.gatherer.offer(other.gatherer.prepare(torch.full((other.replica.size,), 8.0), 0, 8))
    await show(one, other, 1.0, 7)
    assert float(one.gatherer.shown_in(other.id, 7).vector[0]) == 7.0  # type: ignore[union-attr]
    await show(one, other, 2.0, 8)
    assert float(one.gatherer.shown_in(other.id, 8).vector[0]) == 8.0  # type: ignore[union-attr]
    await show(one, other, 3.0, 3)  # further behind than anybody remembers
    assert one.gatherer.latest_round(other.id) == 8


async def test_a_vector_that_comes_late_does_not_hide_the_newer_one() -> None:
    _, (one, other) = peers(2)
    other.offer(5.0, 0)
    await show(one, other, 5.0, 5)
    await show(one, other, 4.0, 4)
    assert [other.gatherer.shown_in(one.id, round) is not None for round in (4, 5)] == [True, True]
    assert other.gatherer.latest_round(one.id) == 5


async def test_what_has_no_rounds_is_kept_once() -> None:
    _, (one, other) = peers(2)
    other.offer(5.0, 0)
    await show(one, other, 1.0, 0)
    await show(one, other, 2.0, 0)
    assert len(other.gatherer._shown[one.id]) == 1
    assert one.gatherer._offered_before is None


async def test_a_round_that_nobody_could_have_reached_is_refused() -> None:
    _, (one, other) = peers(2)
    other.offer(5.0, 0)
    with pytest.raises(PeerError):
        await show(one, other, 1.0, MAX_ROUND + 1)
    assert any(isinstance(event, Rejected) and event.reason == "malformed" for event in other.events)
