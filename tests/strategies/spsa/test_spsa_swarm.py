"""Whole swarms in one process: whatever the network and the power do, the masters end equal, and the loss falls."""

import random
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
import torch
from onebyte_swarm import Peers, deliver, differences, gaussian, identity_of, quadratic, synchronise
from torch import Tensor, nn

from p2ptrain.errors import ConfigError
from p2ptrain.simulation.machine import Crashed
from p2ptrain.strategies.spsa.arithmetic.lattice import Lattice
from p2ptrain.strategies.spsa.arithmetic.noise import Evaluation, signs
from p2ptrain.strategies.spsa.arithmetic.rule import EXPONENT_MAX, Rule
from p2ptrain.strategies.spsa.arithmetic.selection import Selection, of_parameters
from p2ptrain.strategies.spsa.ledger import snapshot
from p2ptrain.strategies.spsa.ledger.audit import judge, seal
from p2ptrain.strategies.spsa.ledger.batch import Batch, Run, decode, encode
from p2ptrain.strategies.spsa.ledger.book import Book
from p2ptrain.strategies.spsa.ledger.replica import Replica
from p2ptrain.training.replica import Replica as Flat
from p2ptrain.training.tasks.digits import Digits

SMALL = Rule(lr=0.02, span=4, samples_max=4, exponent=-3)
LAST = 1 << 16


class Chaos:
    """A swarm whose messages are lost, doubled, late and out of order, and whose peers are killed while they write."""

    def __init__(self, seed: int, num_peers: int = 4, size: int = 200) -> None:
        self.rng = random.Random(seed)
        self.peers = Peers(SMALL, gaussian(size, seed), num_peers, seed)
        self.losses = [quadratic(gaussian(size, 100 + slot)) for slot in range(num_peers)]
        self.under_way: list[tuple[int, bytes]] = []
        self.out = torch.empty(size)

    def run(self, num_steps: int) -> None:
        for _ in range(num_steps):
            slot = self.rng.randrange(len(self.peers.replicas))
            action = self.rng.choices(
                [self.evaluate, self.publish, self.settle, self.crash, self.deliver], [8, 3, 3, 1, 20]
            )
            action[0](slot)
        for slot in range(len(self.peers.replicas)):
            self.publish(slot)

    def evaluate(self, slot: int) -> None:
        replica = self.peers.replicas[slot]
        replica.advance()
        for _ in range(self.rng.randint(1, 3)):
            replica.evaluate(self.losses[slot], self.out)

    def publish(self, slot: int) -> None:
        for record in self.peers.replicas[slot].publish():
            for other in range(len(self.peers.replicas)):
                copies = self.rng.choice([0, 1, 1, 2]) if other != slot else 0
                self.under_way += [(other, record)] * copies

    def settle(self, slot: int) -> None:
        self.peers.replicas[slot].settle()
        if self.rng.random() < 0.3:
            self.peers.replicas[slot].snapshot()

    def crash(self, slot: int) -> None:
        """Killed in the middle of its next write, whatever it writes."""
        disk = self.peers.disks[slot]
        disk.tear = lambda: None
        with suppress(Crashed):
            self.rng.choice([self.publish, self.settle])(slot)
        disk.tear = None
        assert self.peers.restart(slot) == []

    def deliver(self, _: int) -> None:
        if self.under_way:
            slot, record = self.under_way.pop(self.rng.randrange(len(self.under_way)))
            assert deliver(self.peers.replicas[slot], record) == ""


@pytest.mark.parametrize("seeds", [range(start, start + 25) for start in range(0, 200, 25)], ids=str)
def test_masters_are_equal_whatever_happens(seeds: range) -> None:
    for seed in seeds:
        chaos = Chaos(seed)
        chaos.run(150)
        replicas = chaos.peers.replicas
        synchronise(replicas, LAST)
        assert len(set(chaos.peers.digests())) == 1, seed
        fresh = chaos.peers.fresh(replicas[0].book)
        assert fresh.lattice.digest() == replicas[0].master.lattice.digest(), seed
        for slot in range(len(replicas)):
            replicas[slot].log.flush()
            chaos.peers.restart(slot)
        assert set(chaos.peers.digests()) == {fresh.lattice.digest().hex()}, seed
        assert not any(replica.evidence for replica in chaos.peers.replicas), seed


def test_nothing_was_published_twice_with_other_bytes_because_of_a_crash() -> None:
    chaos = Chaos(1)
    for _ in range(30):
        chaos.run(20)
        for slot in range(4):
            chaos.crash(slot)
    synchronise(chaos.peers.replicas, LAST)
    assert sum(batch.count for batch in chaos.peers.replicas[0].book.batches()) > 100
    assert not any(replica.evidence or replica.suspects() for replica in chaos.peers.replicas)


def test_two_bytes_for_one_evaluation_are_evidence_and_no_split() -> None:
    peers = Peers(SMALL, gaussian(50, 0), 3)
    lies = [
        Batch(2, (Run(0, 0, content, SMALL.exponent),)).sign(peers.identity, identity_of(2).sign)
        for content in (b"\x05", b"\x70")
    ]
    for replica, order in zip(peers.replicas[:2], (lies, lies[::-1]), strict=True):
        for lie in order:
            replica.receive(encode(lie))
    one, other = peers.replicas[:2]
    assert len(set(peers.digests()[:2])) == 1
    assert set(one.evidence[2]) == set(other.evidence[2]) == set(lies)
    assert one.suspects() == {2: {"equivocation"}}
    one.log.flush()
    peers.restart(0)
    assert peers.replicas[0].suspects() == {2: {"equivocation"}}


def test_strangers_forgers_and_floods_are_refused_and_named() -> None:
    peers = Peers(SMALL, gaussian(50, 0), 2)
    victim = peers.replicas[0]
    run = (Run(0, 0, b"\x05", SMALL.exponent),)
    flood = Batch(1, (Run(0, 0, b"\x05" * 5, SMALL.exponent),)).sign(peers.identity, identity_of(1).sign)
    far = Batch(1, (Run(10_000, 0, b"\x05", SMALL.exponent),)).sign(peers.identity, identity_of(1).sign)
    assert deliver(victim, encode(Batch(9, run).sign(peers.identity, identity_of(9).sign))) == "unknown-slot"
    assert deliver(victim, encode(Batch(1, run).sign(peers.identity, identity_of(9).sign))) == "bad-signature"
    assert deliver(victim, encode(Batch(1, run).sign(b"o" * 32, identity_of(1).sign))) == "bad-signature"
    assert deliver(victim, bytes(100_000)) == "oversized"
    assert victim.suspects() == {}
    assert deliver(victim, encode(flood)) == "flooding"
    assert deliver(victim, encode(far)) == "ahead"
    assert victim.refused == {(1, "flooding"): 1, (1, "ahead"): 1}
    assert victim.suspects() == {1: {"flooding"}}
    assert victim.book.pages == {}


def test_a_byte_for_a_closed_round_is_refused_and_what_slipped_in_is_mended() -> None:
    peers = Peers(SMALL, gaussian(50, 0), 4)
    loss, out = quadratic(gaussian(50, 1)), torch.empty(50)
    for _ in range(10):
        for replica in peers.replicas:
            replica.advance()
            replica.evaluate(loss, out)
    for replica in peers.replicas:
        for record in replica.publish():
            for other in peers.replicas:
                deliver(other, record)
    late = Batch(3, (Run(5, 1, b"\x05", SMALL.exponent),)).sign(peers.identity, identity_of(3).sign)
    early, *others = peers.replicas[:3]
    early.receive(encode(late))
    for replica in peers.replicas:
        replica.close(8)
        replica.settle()
    assert [deliver(other, encode(late)) for other in others] == ["closed", "closed"]
    assert peers.digests()[0] != peers.digests()[1] == peers.digests()[2]

    # The three seals tell who is the odd one out, and bisection where; it forgets what the others refused.
    common, faults = judge({slot: seal(replica.master, 8) for slot, replica in enumerate(peers.replicas)})
    assert faults == {0: "log"}
    assert differences(early.book, others[0].book, 8) == [(5, 6)]
    assert early.replace(5, 6, others[0].records(5, 6)) == (0, 1)
    assert seal_of(early, 8) == common
    assert len(set(peers.digests())) == 1

    # And the other way round: a byte that most have is taken, closed or not.
    assert early.replace(5, 6, [*others[0].records(5, 6), encode(late)]) == (1, 0)
    assert peers.restart(1) == []
    assert deliver(peers.replicas[1], encode(late)) == "closed"


def test_what_may_be_closed_at_different_times_is_never_in_one_batch() -> None:
    peers = Peers(SMALL.model_copy(update={"audit_every": 8}), gaussian(50, 0), 2)
    one, other = peers.replicas
    loss, out = quadratic(gaussian(50, 1)), torch.empty(50)
    for _ in range(20):
        one.advance()
        one.evaluate(loss, out)
    records = one.publish()
    assert [[run.round for run in decode(record).runs] for record in records] == [
        list(range(8)), list(range(8, 16)), list(range(16, 20))
    ]  # fmt: skip
    other.close(8)
    assert [deliver(other, record) for record in records] == ["closed", "", ""]
    crossing = Batch(0, (Run(15, 1, b"\x05", SMALL.exponent), Run(16, 1, b"\x05", SMALL.exponent))).sign(
        peers.identity, identity_of(0).sign
    )
    assert deliver(other, encode(crossing)) == "malformed"


def seal_of(replica: Replica, number: int) -> object:
    replica.settle()
    return seal(replica.master, number)


def test_a_broken_master_is_named_and_mended_by_a_snapshot() -> None:
    chaos = Chaos(3)
    chaos.run(100)
    replicas = chaos.peers.replicas
    synchronise(replicas, LAST)
    good = chaos.peers.digests()[0]
    replicas[2].master.lattice.values[7] += 1
    donated = snapshot.pack(replicas[0].master)
    for replica in replicas:
        replica.advance()
        replica.evaluate(chaos.losses[0], chaos.out)
    _, faults = judge({slot: seal(replica.master, 3) for slot, replica in enumerate(replicas)})
    assert faults == {2: "master"}
    found = snapshot.unpack(donated, SMALL, chaos.peers.identity, 200)
    assert Lattice((0, 0), found.values).digest().hex() == good
    replicas[2].adopt(found)
    synchronise_all(replicas)
    assert len(set(chaos.peers.digests())) == 1


def synchronise_all(replicas: list[Replica]) -> None:
    for replica in replicas:
        replica.publish()
    synchronise(replicas, LAST)


def test_a_disk_that_forgot_what_it_promised_is_healed_by_the_others() -> None:
    chaos = Chaos(5)
    chaos.run(200)
    synchronise(chaos.peers.replicas, LAST)
    want = chaos.peers.digests()[0]
    disk = chaos.peers.disks[1]
    name = next(name for name in disk.names() if name.endswith(".log"))
    for cut in range(0, len(disk.files[name]), 97):
        disk.files[name] = disk.files[name][: len(disk.files[name]) - cut]
        chaos.peers.restart(1)
        synchronise(chaos.peers.replicas, LAST)
        assert chaos.peers.digests()[1] == want


class Learning:
    """The digits, a small network, and a data set of its own per peer."""

    def __init__(self, num_peers: int, parameters: str = "", seed: int = 0) -> None:
        self.task = Digits(hidden=16, batch_size=64)
        self.flat = Flat(self.task.model(seed))
        self.selection: Selection = of_parameters(self.flat.module, parameters)
        self.start = self.flat.flat.clone()
        self.shards = np.array_split(np.random.default_rng(seed).permutation(1397), num_peers)
        self.probe = self.task.batch(np.arange(1397), np.random.default_rng(9))

    @property
    def weights(self) -> Tensor:
        return self.selection.gather(self.start)

    def loss(self, slot: int, number: int) -> Callable[[Tensor], float]:
        """Of one batch, the same on both sides of the noise; float64 weights are evaluated in float64."""
        images, labels = self.task.batch(self.shards[slot], np.random.default_rng([slot, number]))

        def loss_at(weights: Tensor) -> float:
            return self._evaluate(weights, images, labels)

        return loss_at

    @torch.no_grad()
    def _evaluate(self, weights: Tensor, images: Tensor, labels: Tensor) -> float:
        flat = self.start.to(weights.dtype, copy=True)
        self.selection.scatter(weights, flat)
        views = dict(zip(*self._views(flat), strict=True))
        logits = torch.func.functional_call(self.flat.module, views, (images.to(weights.dtype),))
        return nn.functional.cross_entropy(logits.double(), labels).item()

    def _views(self, flat: Tensor) -> tuple[list[str], list[Tensor]]:
        names, tensors, at = [], [], 0
        for name, parameter in self.flat.module.named_parameters():
            names.append(name)
            tensors.append(flat[at : at + parameter.numel()].view(parameter.shape))
            at += parameter.numel()
        return names, tensors

    @cache  # noqa: B019
    def everything(self) -> tuple[Tensor, Tensor]:
        batches = [self.task.batch(np.arange(1397), np.random.default_rng(k)) for k in range(16)]
        return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])

    def total(self, weights: Tensor) -> float:
        return self._evaluate(weights, *self.everything())


def learn(learning: Learning, rule: Rule, num_peers: int, num_rounds: int, join_at: int = -1) -> Peers:
    """All peers in step; one joins from a snapshot at half time if so asked, and the last is then that one."""
    peers = Peers(rule, learning.weights, num_peers)
    out = torch.empty_like(learning.weights)
    for number in range(num_rounds):
        records: list[bytes] = []
        for slot, replica in enumerate(peers.replicas):
            if slot == num_peers - 1 and number < join_at:
                continue
            if slot == num_peers - 1 and number == join_at:
                join(replica, peers.replicas[0])
            replica.advance()
            replica.evaluate(learning.loss(slot, number), out)
            records += replica.publish()
        for slot, replica in enumerate(peers.replicas):
            if slot < num_peers - 1 or number >= join_at:
                for record in records:
                    replica.receive(record)
                replica.settle()
    return peers


def join(newcomer: Replica, donor: Replica) -> None:
    found = snapshot.unpack(
        snapshot.pack(donor.master), donor.rule, donor.identity, donor.master.lattice.values.numel()
    )
    newcomer.adopt(found)
    for record in donor.records(0, LAST):
        newcomer.receive(record)
    newcomer.settle()


def plain(learning: Learning, rule: Rule, peers: Peers, num_rounds: int) -> Tensor:
    """The same evaluations in a float64 loop that knows nothing of bytes, scales and integers."""
    weights = learning.weights.double()
    key = peers.start().key
    for number in range(num_rounds):
        total = torch.zeros_like(weights)
        for slot in range(len(peers.replicas)):
            noise = torch.from_numpy(signs(key, Evaluation(number, slot, 0), weights.numel())).double()
            loss = learning.loss(slot, number)
            slope = (loss(weights + rule.eps * noise) - loss(weights - rule.eps * noise)) / (2 * rule.eps)
            total += slope * noise
        weights -= rule.lr * total / len(peers.replicas)
    return weights


@pytest.mark.parametrize("parameters", ["", r"^3\."])
def test_eight_peers_learn_what_one_machine_learns_in_float64(parameters: str) -> None:
    learning, num_rounds = Learning(8, parameters), 120
    rule = Rule(lr=0.2 if parameters else 0.02)
    peers = learn(learning, rule, 8, num_rounds)
    assert len(set(peers.digests())) == 1
    weights = torch.empty_like(learning.weights)
    peers.replicas[0].master.lattice.weights(weights)
    before, ours = learning.total(learning.weights), learning.total(weights)
    theirs = learning.total(plain(learning, rule, peers, num_rounds).float())
    print(f"\n{before:.4f} -> {ours:.4f} (bytes), {theirs:.4f} (float64)")
    assert theirs < before - 0.3
    assert abs(ours - theirs) <= 0.02 * (before - theirs)


def test_who_joins_at_half_time_ends_with_the_same_hash() -> None:
    peers = learn(Learning(4), Rule(lr=0.004), 4, 40, join_at=20)
    assert len(set(peers.digests())) == 1
    assert peers.replicas[3].book.heads[3] == 39
    assert sum(batch.count for batch in peers.replicas[0].book.batches()) == 3 * 40 + 20


def test_a_peer_that_lies_slows_the_others_down_and_is_named() -> None:
    learning, rule = Learning(8), Rule(lr=0.03, samples_max=2)
    peers = Peers(rule, learning.weights, 8)
    out = torch.empty_like(learning.weights)
    for number in range(80):
        records: list[bytes] = []
        for slot, replica in enumerate(peers.replicas[:7]):
            replica.advance()
            replica.evaluate(learning.loss(slot, number), out)
            records += replica.publish()
        lie = Batch(7, (Run(number, 0, b"\x7f\x81", EXPONENT_MAX),)).sign(peers.identity, identity_of(7).sign)
        for replica in peers.replicas[:7]:
            for record in (*records, encode(lie)):
                replica.receive(record)
            replica.settle()
    out = torch.empty_like(learning.weights)
    peers.replicas[0].master.lattice.weights(out)
    assert learning.total(out) < learning.total(learning.weights) - 0.15
    assert peers.replicas[0].suspects() == {7: {"loud"}}
    assert len(set(peers.digests()[:7])) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_working_weights_of_any_type_leave_the_masters_equal(dtype: torch.dtype) -> None:
    # The steps of bfloat16 weights are coarse, so that it takes a larger one to see anything of the slope.
    peers = Peers(SMALL.model_copy(update={"lr": 0.002, "eps": 0.05}), gaussian(200, 0), 2)
    loss, before = quadratic(gaussian(200, 1)), None
    outs = [torch.empty(200, dtype=dtype), torch.empty(200)]
    for _ in range(150):
        records = []
        for replica, out in zip(peers.replicas, outs, strict=True):
            replica.advance()
            replica.evaluate(loss, out)
            records += replica.publish()
        for replica in peers.replicas:
            for record in records:
                replica.receive(record)
            replica.settle()
        peers.replicas[0].master.lattice.weights(outs[1])
        before = before or loss(outs[1])
    assert len(set(peers.digests())) == 1
    assert loss(outs[1]) < 0.9 * before


def test_a_full_disk_stops_publishing_and_nothing_else() -> None:
    peers = Peers(SMALL, gaussian(20, 0), 1)
    replica, disk = peers.replicas[0], peers.disks[0]
    replica.advance()
    replica.evaluate(quadratic(gaussian(20, 1)), torch.empty(20))

    def full(name: str, content: bytes) -> None:
        raise ConfigError("disk full")

    disk.write, works = full, disk.write  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="disk full"):
        replica.publish()
    disk.write = works  # type: ignore[method-assign]
    assert len(replica.publish()) == 1
    peers.restart(0)
    assert peers.replicas[0].book.heads == {0: 0}


def test_books_of_another_order_have_the_same_batches() -> None:
    chaos = Chaos(9)
    chaos.run(60)
    synchronise(chaos.peers.replicas, LAST)
    books: list[Book] = [replica.book for replica in chaos.peers.replicas]
    assert all(list(book.batches()) == list(books[0].batches()) for book in books)
