"""Whole nodes in virtual time: gossip, graphs, the merge at the end, and when a run is over."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2ptrain import graphs
from p2ptrain.config import RunConfig
from p2ptrain.errors import PeerError
from p2ptrain.exchange.gather import Gatherer
from p2ptrain.exchange.pairwise import Exchanger
from p2ptrain.exchange.reputation import Reputation
from p2ptrain.exchange.statements import Author
from p2ptrain.exchange.witness import Witness
from p2ptrain.graphs import Graph
from p2ptrain.node import Node, mean_of, restore
from p2ptrain.ports import PeerId
from p2ptrain.seeds import derive, python_random
from p2ptrain.simulation.links import Links
from p2ptrain.simulation.machine import SimulatedDisk
from p2ptrain.strategies.gossip import Gossip
from p2ptrain.swarm.beats import Settings
from p2ptrain.swarm.membership import Membership
from p2ptrain.swarm.records import Record, peer_id_of, seal
from p2ptrain.swarm.state import StateServer
from p2ptrain.swarm.view import State
from p2ptrain.telemetry.events import Event, Exchanged, Failed, Finished, Left, Merged, Stepped
from p2ptrain.topology.links import Link
from p2ptrain.training.replica import Replica, named_slices
from p2ptrain.training.splits import examples
from p2ptrain.training.trainer import Trainer

T = TypeVar("T")
E = TypeVar("E", bound=Event)
KEY, SWARM, EPOCH = "the swarm's key", "swarm", 1_800_000_000.0
STEP_S = 0.1


class VirtualCompute:
    """`ports.Compute`, inline; a training step costs virtual seconds."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s

    async def run(self, work: Callable[[], T]) -> T:
        return work()

    async def train(self, work: Callable[[], T]) -> T:
        result = work()
        await asyncio.sleep(self.step_s)
        return result


class Whole:
    """A node with everything around it but sockets and threads, as the daemon puts it together."""

    def __init__(self, world: "World", slot: int) -> None:
        run = world.run
        key = Ed25519PrivateKey.from_private_bytes(derive(slot, "key").to_bytes(32, "big"))
        public = key.public_key().public_bytes_raw()
        self.me = peer_id_of(public)
        self.slot = slot
        self.address = f"node-{slot}:1"
        self.events: list[tuple[float, Event]] = []
        self.asked: list[tuple[float, PeerId]] = []
        """When this node asked whom for a swap."""

        def make_record(sequence: int, expires_unix_s: float) -> bytes:
            record = Record(self.me, f"node-{slot}", slot, (self.address,), (), b"", sequence, expires_unix_s)
            return seal(record, SWARM, KEY, public, key.sign)

        def emit(event: Event) -> None:
            self.events.append((now(), event))

        transport = world.links.transport(self.me, self.address)
        self.membership = Membership(
            transport, None, make_record, Settings(self.me, SWARM, KEY, world.heartbeat_s, ("node-0:1",)),
            rng=python_random(0, "membership", slot), now_unix=lambda: EPOCH + now(), emit=emit,
        )  # fmt: skip
        self.replica = Replica(run.task.model(run.seed))
        own = examples(run.task.labels(), run.data, world.count, slot, run.seed)
        trainer = Trainer(run.task, self.replica, own, run.strategy, seed=run.seed, slot=slot)
        exchanger = Exchanger(
            transport=transport, shared=self.replica, run=SWARM, codec=run.codec, aggregator=run.aggregator, emit=emit,
            rng=python_random(0, "exchange", slot),
            step=lambda: trainer.steps,
        )  # fmt: skip
        server = StateServer(
            transport, self.replica, SWARM, python_random(0, "state", slot), lambda: trainer.steps, lambda: True
        )
        reputation = Reputation(emit, now)
        witness = Witness(SWARM, self.me, transport, reputation, python_random(0, "witness", slot))
        author = Author(SWARM, public, key.sign, lambda: EPOCH + now())
        gatherer = Gatherer(self.me, transport, exchanger.talk, python_random(0, "gather", slot), author, witness)
        self.node = Node(
            me=self.me, name=f"node-{slot}", slot=slot, run=run, swarm=SWARM, graph=world.graph, transport=transport,
            membership=self.membership, compute=VirtualCompute(world.step_s), trainer=trainer, exchanger=exchanger,
            gatherer=gatherer,
            state_server=server, emit=emit, home=SimulatedDisk(python_random(0, "home", slot)),
            public_key=public, sign=key.sign, reputation=reputation,
        )  # fmt: skip
        swap = exchanger.swap

        async def watched(peer: PeerId) -> None:
            self.asked.append((now(), peer))
            await swap(peer)

        exchanger.swap = watched  # type: ignore[method-assign]

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.services = [
            loop.create_task(self.membership.run()),
            loop.create_task(self.node.exchanger.settle_doubts()),
        ]

    async def live(self) -> None:
        self.node.begin()
        self.membership.set_state(State.TRAINING, 0)
        await self.node.run.strategy.run(self.node)
        await self.node.settle()
        self.membership.set_state(State.DONE, self.node.step)

    async def look(self) -> None:
        """Until its view has changed, or for a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await self.membership.changed()

    async def stop(self) -> None:
        for service in self.services:
            service.cancel()
        await asyncio.gather(*self.services, return_exceptions=True)

    def events_of_swaps(self) -> list[tuple[str, set[PeerId]]]:
        """(partner, whom else it had asked before) of each swap that this node started and that was done."""
        found, since = [], 0.0
        for time, event in self.events:
            if isinstance(event, Exchanged) and event.initiated:
                asked = {peer for when, peer in self.asked if since < when <= time and peer != event.peer}
                found.append((event.peer, asked))
                since = time
        return found

    def all(self, kind: type[E]) -> list[E]:
        return [event for _, event in self.events if isinstance(event, kind)]


class World:
    """`async with World(...) as world`: nodes that all see each other and have not begun to train."""

    def __init__(
        self, count: int, steps: int | None = 60, graph: Graph | None = None, heartbeat_s: float = 5.0,
        step_s: float = STEP_S, **strategy: Any,
    ) -> None:  # fmt: skip
        settings = {"task": {"name": "digits", "hidden": 4, "batch_size": 8}, "codec": "fp32", "evaluate_every": 1e9}
        self.run = RunConfig.model_validate(
            {**settings, "steps": steps, "strategy": {"name": "gossip", "rate": 0.5, **strategy}}
        )
        self.count, self.graph, self.heartbeat_s, self.step_s = count, graph, heartbeat_s, step_s
        self.links = Links(random.Random(0), Link(latency=0.0005, jitter=0.0005))

    async def __aenter__(self) -> "World":
        self.nodes = [Whole(self, slot) for slot in range(self.count)]
        for node in self.nodes:
            node.start()
        async with asyncio.timeout(60):
            while any(len(reachable(node)) < self.count - 1 for node in self.nodes):
                await next(node for node in self.nodes if len(reachable(node)) < self.count - 1).look()
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            await node.stop()

    async def live(self) -> None:
        """Everyone trains to the end."""
        async with asyncio.TaskGroup() as group:
            for node in self.nodes:
                group.create_task(node.live())

    def slot_of(self, peer: PeerId) -> int:
        return next(node.slot for node in self.nodes if node.me == peer)


def now() -> float:
    return asyncio.get_running_loop().time()


def reachable(node: Whole) -> list[PeerId]:
    return [member.peer for member in node.membership.view() if member.reachable]


async def test_the_same_partner_is_not_taken_twice_running_while_there_is_a_choice() -> None:
    async with World(4, steps=150) as world:
        for index, node in enumerate(world.nodes):
            node.node.compute.step_s = STEP_S * (1 + index / 7)  # type: ignore[attr-defined]
        await world.live()
        for node in world.nodes:
            partners = [peer for peer, _ in node.events_of_swaps()]
            assert len(partners) > 50
            assert min(Counter(partners).values()) > 10
            for (before, _), (partner, also_asked) in pairwise(node.events_of_swaps()):
                others = set(partners) - {partner}
                assert partner != before or also_asked >= others, "all others were busy"


async def test_of_those_that_are_not_busy_any_but_the_last_is_picked() -> None:
    async with World(4) as world:
        node = world.nodes[0].node
        for other in world.nodes[1:]:
            other.membership.set_state(State.TRAINING, 1)
        await asyncio.sleep(5)
        first, second, third = (other.me for other in world.nodes[1:])
        await node.swap(first)
        assert {node.pick() for _ in range(50)} == {second, third}
        assert {node.pick(without={second}) for _ in range(50)} == {third}
        assert {node.pick(without={second, third}) for _ in range(50)} == {first}
        assert node.pick(without={first, second, third}) is None


async def test_with_one_other_there_is_no_choice() -> None:
    async with World(2, steps=40) as world:
        await world.live()
        assert all(node.all(Exchanged) for node in world.nodes)
        assert len(world.nodes[0].asked) > 10


async def test_with_a_graph_only_neighbours_are_asked() -> None:
    graph = graphs.make("ring", n=6)
    async with World(6, steps=60, graph=graph) as world:
        await world.live()
        for node in world.nodes:
            asked = {world.slot_of(peer) for _, peer in node.asked}
            assert asked == set(graph.neighbours(node.slot))


async def test_a_dead_peer_that_is_not_yet_missed_does_not_keep_the_living_apart() -> None:
    async with World(3, steps=None, heartbeat_s=5.0) as world:
        one, other, mortal = world.nodes
        training = [asyncio.create_task(node.live()) for node in (one, other)]
        await asyncio.sleep(2)
        mortal.membership.set_state(State.TRAINING, 1)
        await asyncio.sleep(6)
        assert mortal.me in one.node.peers()
        await mortal.stop()
        await world.links.kill(mortal.me)
        killed = now()
        await asyncio.sleep(30)
        for node in (one, other):
            missed = next(time for time, event in node.events if isinstance(event, Left))
            assert missed - killed <= 4 * world.heartbeat_s
            since = [event for time, event in node.events if killed < time < missed]
            swaps = sum(isinstance(event, Exchanged) and event.initiated for event in since)
            failures = sum(isinstance(event, Failed) for event in since)
            expected = 0.5 * (missed - killed) / STEP_S
            assert swaps > 0.3 * expected
            assert failures < 0.7 * expected
            node.node.draining = True
        await asyncio.gather(*training)


async def test_everyone_ends_with_the_same_bits_the_mean_of_all() -> None:
    async with World(5) as world:
        await world.live()
        vectors = {node.me: node.node.state_server._frozen for node in world.nodes}
        ordered = [frozen.vector for _, frozen in sorted(vectors.items()) if frozen]
        assert len({node.replica.digest() for node in world.nodes}) == 1
        assert torch.equal(world.nodes[0].replica.snapshot(), mean_of(ordered))
        assert torch.allclose(torch.stack(ordered).mean(0), mean_of(ordered), atol=1e-6)
        for node in world.nodes:
            assert [event.replicas for event in node.all(Merged)] == [5]
            assert node.node.step == 60


async def test_nodes_of_unequal_speed_wait_for_each_other_before_they_merge() -> None:
    async with World(3, steps=30) as world:
        world.nodes[2].node.compute.step_s = 10 * STEP_S  # type: ignore[attr-defined]
        await world.live()
        assert len({node.replica.digest() for node in world.nodes}) == 1
        assert {node.node.step for node in world.nodes} == {30}
        late = next(time for time, event in world.nodes[2].events if isinstance(event, Finished))
        for node in world.nodes:
            assert min(time for time, event in node.events if isinstance(event, Merged)) >= late


async def test_a_run_without_a_merge_ends_unmerged() -> None:
    async with World(3, merge="none") as world:
        await world.live()
        assert len({node.replica.digest() for node in world.nodes}) == 3
        assert not any(node.all(Merged) for node in world.nodes)


async def test_a_merge_that_restores_the_variance_is_the_same_on_all_nodes() -> None:
    async with World(3, merge="variance-corrected", rate=0.01) as world:
        await world.live()
        assert len({node.replica.digest() for node in world.nodes}) == 1
        merged = world.nodes[0].replica.snapshot()
        vectors = [node.node.state_server._frozen.vector for node in world.nodes]  # type: ignore[union-attr]
        plain = mean_of(vectors)
        for _, where in named_slices(world.nodes[0].replica.module):
            wanted = torch.stack([vector[where].var() for vector in vectors]).mean()
            assert merged[where].var().item() == pytest.approx(wanted.item(), rel=1e-3)
            assert plain[where].var() < wanted
            assert merged[where].mean().item() == pytest.approx(plain[where].mean().item(), abs=1e-5)


def test_restoring_the_variance_of_a_mean() -> None:
    torch.manual_seed(0)
    tensors = [slice(0, 5000), slice(5000, 5001), slice(5001, 9001)]
    vectors = [torch.randn(9001) * 0.3 + 0.1 for _ in range(4)]
    mean = mean_of(vectors)
    alone = mean[5000].clone()
    assert mean[:5000].var().item() == pytest.approx(0.09 / 4, rel=0.1)
    restore(mean, vectors, tensors)
    for where in (tensors[0], tensors[2]):
        assert mean[where].var().item() == pytest.approx(0.09, rel=0.1)
        assert mean[where].mean().item() == pytest.approx(0.1, abs=0.02)
    assert mean[5000] == alone, "one element has no variance"


def test_models_that_agree_are_not_stretched_and_opposite_ones_not_without_bound() -> None:
    torch.manual_seed(0)
    vector = torch.randn(100)
    same = mean_of([vector, vector])
    restore(same, [vector, vector], [slice(0, 100)])
    assert torch.allclose(same, vector)
    nothing = mean_of([vector, -vector])
    restore(nothing, [vector, -vector], [slice(0, 100)])
    assert torch.equal(nothing, torch.zeros(100))


async def test_a_node_alone_trains_alone() -> None:
    async with World(1) as world:
        await world.live()
        (node,) = world.nodes
        assert node.node.step == 60
        assert node.all(Stepped)
        assert node.asked == []
        assert not node.all(Exchanged) + node.all(Failed) + node.all(Merged)


async def test_a_run_is_over_after_its_steps_or_seconds_whichever_comes_first() -> None:
    async with World(1, steps=100, step_s=1.0) as world:
        node = world.nodes[0].node
        node.run = node.run.model_copy(update={"seconds": 7.5})
        node.begin()
        assert node.progress == 0.0
        await node.train()
        assert node.progress == pytest.approx(1 / 7.5)
        node.run = node.run.model_copy(update={"steps": 2})
        assert node.progress == 0.5
        assert not node.finished
        await node.train()
        assert node.progress == 1.0
        assert node.finished
        node.run = node.run.model_copy(update={"steps": None})
        while not node.finished:
            await node.train()
        assert node.step == 8
        node.run = node.run.model_copy(update={"seconds": None})
        assert node.progress == 0.0, "a run without end"
        assert not node.finished
        node.draining = True
        assert node.finished


async def test_time_counts_from_the_beginning_of_training() -> None:
    async with World(1, steps=None) as world:
        node = world.nodes[0].node
        node.run = node.run.model_copy(update={"seconds": 10.0})
        await asyncio.sleep(100)
        node.begin()
        assert node.progress == 0.0
        await asyncio.sleep(5)
        assert node.progress == 0.5


async def gossip_events(
    steps: int, monkeypatch: pytest.MonkeyPatch, busy: Callable[[int], bool] = lambda step: False, **options: Any
) -> list[int]:
    """At which steps a node on its own would average; at some, everybody is `busy`."""
    at: list[int] = []

    async def average(self: Gossip, node: Node) -> bool:
        if busy(node.step):
            return False
        at.append(node.step)
        return True

    monkeypatch.setattr(Gossip, "_average", average)
    async with World(1, steps=steps, **options) as world:
        world.nodes[0].node.trainer.step = _count_only(world.nodes[0].node.trainer)  # type: ignore[method-assign]
        await world.live()
    return at


def _count_only(trainer: Trainer) -> Callable[[float], float]:
    def step(progress: float = 0.0) -> float:
        trainer.steps += 1
        return 0.0

    return step


@pytest.mark.parametrize("rate", [0.1, 0.25, 1.0, 3.0])
async def test_a_regular_clock_is_exact(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    at = await gossip_events(200, monkeypatch, rate=rate, clock="regular")
    assert len(at) == pytest.approx(200 * rate, abs=max(1, rate))
    assert at[: int(100 * rate)] == pytest.approx([(1 + index) / rate for index in range(int(100 * rate))], abs=1.001)


@pytest.mark.parametrize("rate", [0.1, 0.5, 3.0])
async def test_a_poisson_clock_has_the_right_mean_and_spread(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 3000
    at = await gossip_events(steps, monkeypatch, rate=rate)
    assert len(at) == pytest.approx(steps * rate, rel=4 / (steps * rate) ** 0.5)
    window = 60
    counts = torch.tensor([sum(start <= step < start + window for step in at) for start in range(0, steps, window)])
    assert 0.4 < counts.double().var() / counts.double().mean() < 2.0, "as many as the mean, for a Poisson process"


async def test_a_schedule_leads_from_one_rate_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    at = await gossip_events(1000, monkeypatch, rate=0.5, final_rate=0.1, clock="regular")
    first, last = sum(step < 200 for step in at), sum(step >= 800 for step in at)
    assert first == pytest.approx(200 * 0.46, abs=5)
    assert last == pytest.approx(200 * 0.14, abs=5)
    assert len(at) == pytest.approx(1000 * 0.3, rel=0.05)


async def test_an_event_that_finds_everybody_busy_is_put_off_and_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    always = await gossip_events(200, monkeypatch, rate=0.1, clock="regular")
    at = await gossip_events(200, monkeypatch, lambda step: step % 4 != 0, rate=0.1, clock="regular")
    assert at == [-(-step // 4) * 4 for step in always]


async def test_several_averagings_per_event(monkeypatch: pytest.MonkeyPatch) -> None:
    at = await gossip_events(100, monkeypatch, rate=0.1, clock="regular", gossip_steps=3)
    assert set(Counter(at).values()) == {3}


async def test_a_node_that_is_not_ready_asks_nobody() -> None:
    """An orphan that has just met the swarm has nothing worth mixing; one that loads its codec would stand still."""
    async with World(2) as world:
        one, other = world.nodes
        one.node.exchanger.ready = lambda: False
        with pytest.raises(PeerError):
            await one.node.swap(other.me)
        assert not other.all(Exchanged)
        assert not other.all(Failed), "it was not even called"
