"""Swaps are exactly-once and conserve the sum of the replicas, whatever the links do."""

import asyncio
import random
from collections import Counter

import pytest
import torch
from torch import nn

from p2ptrain import aggregators, codecs
from p2ptrain.errors import PeerBusy, PeerError
from p2ptrain.exchange.pairwise import Exchanger
from p2ptrain.ports import Contact, PeerId
from p2ptrain.simulation.links import LAN, Links
from p2ptrain.telemetry.events import Event, Exchanged, Failed
from p2ptrain.training.replica import Replica


class Peer:
    """A node reduced to its replica and its swaps."""

    def __init__(self, links: Links, index: int, codec: str = "fp32", width: int = 40, seed: int = 0) -> None:
        self.id = PeerId(f"{index:032x}")
        torch.manual_seed(index)
        self.replica = Replica(nn.Linear(width, width))
        self.transport = links.transport(self.id, f"host-{index}:1")
        self.events: list[Event] = []
        self.local = torch.zeros(self.replica.size, dtype=torch.float64)
        self.rng = random.Random(f"{seed}/{index}")
        self.exchanger = Exchanger(
            transport=self.transport,
            shared=self.replica,
            run="test",
            codec=codecs.make(codec),
            aggregator=aggregators.make("mean"),
            emit=self.events.append,
            rng=self.rng,
            step=lambda: 0,
        )

    def train(self) -> None:
        """A step that moves the replica by something known."""
        delta = torch.randn(self.replica.size) * 0.01
        self.replica.absorb()
        before = self.replica.flat.double()
        self.replica.flat.add_(delta)
        self.local += self.replica.flat.double() - before
        self.replica.publish()

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)


def make_peers(
    count: int, seed: int = 0, codec: str = "fp32", width: int = 40, **faults: object
) -> tuple[Links, list[Peer]]:
    cut = faults.pop("cut", 0.0)
    links = Links(random.Random(seed), LAN.model_copy(update=faults), cut)  # type: ignore[arg-type]
    peers = [Peer(links, index, codec, width, seed) for index in range(count)]
    for peer in peers:
        for other in peers:
            peer.transport.learn(other.id, Contact(("",), b""))
    return links, peers


def total(peers: list[Peer]) -> torch.Tensor:
    return torch.stack([peer.replica.flat.double() for peer in peers]).sum(0)


async def gossip(peers: list[Peer], rounds: int) -> Counter[str]:
    """Everyone trains and swaps with random others; then the links heal and every doubt is settled."""
    outcomes: Counter[str] = Counter()

    async def live(peer: Peer) -> None:
        for _ in range(rounds):
            await asyncio.sleep(peer.rng.uniform(0.005, 0.02))
            peer.train()
            other = peer.rng.choice([candidate for candidate in peers if candidate is not peer])
            try:
                await peer.exchanger.swap(other.id)
                outcomes["done"] += 1
            except PeerError as error:
                outcomes[error.reason] += 1

    settling = [asyncio.create_task(peer.exchanger.settle_doubts()) for peer in peers]
    async with asyncio.TaskGroup() as group:
        for peer in peers:
            group.create_task(live(peer))
    links = peers[0].transport._links
    links.cut, links.default = 0.0, LAN
    boundaries = [asyncio.create_task(step_boundaries(peer)) for peer in peers]
    await asyncio.sleep(120)  # responders still waiting for a dropped message run into their deadlines
    for peer in peers:
        async with asyncio.timeout(600):
            await peer.exchanger.settled()
    for task in settling + boundaries:
        task.cancel()
    for peer in peers:
        peer.replica.settle()
    return outcomes


async def step_boundaries(peer: Peer) -> None:
    """A node that has finished still takes in what arrives."""
    while True:
        await asyncio.sleep(1)
        peer.replica.settle()


async def test_two_peers_meet_in_the_middle() -> None:
    _, (one, other) = make_peers(2)
    middle = (one.replica.snapshot() + other.replica.snapshot()) / 2
    await one.exchanger.swap(other.id)
    for peer in (one, other):
        peer.replica.settle()
        assert torch.allclose(peer.replica.flat, middle, atol=1e-6)
        assert peer.count(Exchanged) == 1


@pytest.mark.parametrize("codec", codecs.names())
async def test_the_sum_is_kept_with_every_codec(codec: str) -> None:
    _, peers = make_peers(6, codec=codec)
    start = total(peers)
    outcomes = await gossip(peers, rounds=30)
    assert outcomes["done"] > 20
    assert set(outcomes) <= {"done", "busy"}, outcomes
    expected = start + sum(peer.local for peer in peers)
    assert torch.allclose(total(peers), expected, atol=1e-4)


@pytest.mark.parametrize(
    "faults",
    [
        {"cut": 0.05},
        {"drop": 0.05},
        {"duplicate": 0.1},
        {"reorder": 0.3},
        {"cut": 0.03, "drop": 0.03, "duplicate": 0.03, "reorder": 0.1},
    ],
    ids=lambda faults: "+".join(faults),
)
@pytest.mark.parametrize("seed", range(8))
async def test_exactly_once_whatever_the_links_do(faults: dict[str, float], seed: int) -> None:
    _, peers = make_peers(5, seed, **faults)
    start = total(peers)
    outcomes = await gossip(peers, rounds=60)
    assert outcomes["done"] > 10
    assert outcomes.total() > outcomes["done"], "the faults must have hit something"
    expected = start + sum(peer.local for peer in peers)
    assert torch.allclose(total(peers), expected, atol=1e-4)
    initiated = sum(isinstance(event, Exchanged) and event.initiated for peer in peers for event in peer.events)
    answered = sum(isinstance(event, Exchanged) and not event.initiated for peer in peers for event in peer.events)
    assert initiated == answered


async def test_progress_made_during_a_slow_swap_is_kept() -> None:
    _, (one, other) = make_peers(2, latency=1.0, jitter=0.0)
    start = total([one, other])
    swap = asyncio.create_task(one.exchanger.swap(other.id))
    for _ in range(20):
        await asyncio.sleep(0.4)
        one.train()
        other.train()
    await swap
    for peer in (one, other):
        peer.replica.settle()
    assert torch.allclose(total([one, other]), start + one.local + other.local, atol=1e-5)


async def test_a_peer_in_a_swap_is_busy_and_says_so() -> None:
    _, (one, other, third) = make_peers(3, latency=1.0, jitter=0.0)
    first = asyncio.create_task(one.exchanger.swap(other.id))
    await asyncio.sleep(2.5)
    with pytest.raises(PeerBusy):
        await third.exchanger.swap(other.id)
    await first
    assert third.count(Failed) == 0
    await third.exchanger.swap(other.id)


@pytest.mark.parametrize("seed", range(4))
async def test_two_that_ask_each_other_at_once_swap_once(seed: int) -> None:
    _, (one, other) = make_peers(2, seed, latency=1.0, jitter=0.0)
    middle = (one.replica.snapshot() + other.replica.snapshot()) / 2
    swaps = [one.exchanger.swap(other.id), other.exchanger.swap(one.id)]
    outcomes = await asyncio.gather(*swaps, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "PeerBusy"]
    for peer in (one, other):
        peer.replica.settle()
        assert torch.allclose(peer.replica.flat, middle, atol=1e-6)
        assert (peer.count(Exchanged), peer.count(Failed)) == (1, 0)


@pytest.mark.parametrize("codec", ["fp32", "int8", "topk"])
async def test_who_asks_still_answers_others_and_calls_off_what_it_asked_for(codec: str) -> None:
    _, (one, other, third) = make_peers(3, codec=codec, latency=1.0, jitter=0.0)
    start = total([one, other, third])
    asked = asyncio.create_task(one.exchanger.swap(other.id))
    await third.exchanger.swap(one.id)
    with pytest.raises(PeerBusy):
        await asked
    assert [peer.count(Exchanged) for peer in (one, other, third)] == [1, 0, 1]
    for peer in (one, other, third):
        peer.replica.settle()
        assert peer.count(Failed) == 0
    await other.exchanger.swap(third.id)  # it is free
    for peer in (one, other, third):
        peer.replica.settle()
    assert torch.allclose(total([one, other, third]), start, atol=1e-5)


async def test_one_swap_is_asked_for_at_a_time() -> None:
    _, (one, other, third) = make_peers(3, latency=1.0, jitter=0.0)
    first = asyncio.create_task(one.exchanger.swap(other.id))
    await asyncio.sleep(0)
    with pytest.raises(PeerBusy):
        await one.exchanger.swap(third.id)
    await first


async def test_who_is_not_ready_does_not_ask_and_is_no_failure_of_its_own() -> None:
    _, (one, other) = make_peers(2)
    one.exchanger.ready = lambda: False
    with pytest.raises(PeerBusy):
        await one.exchanger.swap(other.id)
    assert (one.events, other.events) == ([], [])
    with pytest.raises(PeerError, match="not-ready"):
        await other.exchanger.swap(one.id)
    one.exchanger.ready = lambda: True
    await one.exchanger.swap(other.id)


async def test_a_silent_peer_costs_a_deadline_and_nothing_else() -> None:
    links, (one, other) = make_peers(2)
    before = one.replica.snapshot()
    swap = asyncio.create_task(one.exchanger.swap(other.id))
    await asyncio.sleep(0.002)
    links.default = links.default.model_copy(update={"down": True})
    with pytest.raises(PeerError) as caught:
        await swap
    assert caught.value.reason == "deadline"
    assert torch.equal(one.replica.snapshot(), before)


async def test_a_peer_with_another_model_is_refused_on_both_sides() -> None:
    links, (one,) = make_peers(1)
    stranger = Peer(links, 7, width=41)
    stranger.transport.learn(one.id, Contact(("",), b""))
    with pytest.raises(PeerError) as caught:
        await stranger.exchanger.swap(one.id)
    assert caught.value.reason == "wrong-model"
    assert [event.reason for event in one.events if isinstance(event, Failed)] == ["wrong-model"]
    await asyncio.sleep(1)
    one.replica.lease()  # nobody holds it any more


async def test_not_a_number_never_reaches_the_replica() -> None:
    _, (one, other) = make_peers(2)
    before = one.replica.snapshot()
    other.exchanger._encode = lambda lease, where, seed, like: codecs.Packet(  # type: ignore[method-assign]
        b"\x00\x00\xc0\x7f" * (where.stop - where.start), where.stop - where.start
    )
    for liar, victim in ((other, one), (one, other)):
        with pytest.raises(PeerError):
            await (victim if victim is one else liar).exchanger.swap(other.id)
    one.replica.settle()
    assert torch.equal(one.replica.flat, before)
