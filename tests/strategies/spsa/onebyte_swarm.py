"""A swarm in one process: replicas, and a network that is a list."""

import hashlib
import random
from collections.abc import Callable, Generator

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from p2ptrain.errors import PeerError
from p2ptrain.network.identity import Identity
from p2ptrain.simulation.machine import SimulatedDisk
from p2ptrain.strategies.spsa.arithmetic.lattice import Lattice
from p2ptrain.strategies.spsa.arithmetic.rule import Rule, key_of
from p2ptrain.strategies.spsa.ledger.audit import Question, answer, seal, search
from p2ptrain.strategies.spsa.ledger.book import Book
from p2ptrain.strategies.spsa.ledger.master import Master
from p2ptrain.strategies.spsa.ledger.replica import Credentials, Replica


def identity_of(slot: int) -> Identity:
    """The same key for a slot in every run."""
    return Identity(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(str(slot).encode()).digest()))


class Peers:
    """Everything that makes a run, and replicas of it."""

    def __init__(self, rule: Rule, weights: Tensor, num_peers: int, seed: int = 0) -> None:
        self.rule, self.weights = rule, weights
        self.identity = rule.identify("test", b"layout", Lattice.of((0, 0), weights).digest())
        self.keys = {slot: identity_of(slot) for slot in range(num_peers)}
        self.members = {slot: key.public_key for slot, key in self.keys.items()}
        self.disks = [SimulatedDisk(random.Random(f"{seed}/{slot}")) for slot in range(num_peers)]
        self.replicas = [self.make(slot) for slot in range(num_peers)]

    def make(self, slot: int) -> Replica:
        """A replica as it is when its process starts."""
        credentials = Credentials(slot, self.keys[slot].sign, Identity.verify)
        return Replica(self.rule, self.identity, self.start(), self.disks[slot], credentials, self.members)

    def restart(self, slot: int) -> list[str]:
        """As after `kill -9`: nothing is left but the disk."""
        self.replicas[slot] = self.make(slot)
        notes = self.replicas[slot].restore()
        self.replicas[slot].settle()
        return notes

    def start(self) -> Lattice:
        return Lattice.of(key_of(self.identity), self.weights)

    def digests(self) -> list[str]:
        for replica in self.replicas:
            replica.settle()
        return [replica.master.lattice.digest().hex() for replica in self.replicas]

    def fresh(self, book: Book) -> Master:
        """A master that gets a book's bytes in one piece."""
        copy = Book(self.rule, self.identity)
        for batch in book.batches():
            copy.put(batch)
        master = Master(self.start(), copy)
        master.settle()
        return master


def deliver(replica: Replica, record: bytes) -> str:
    """What it was refused for, or nothing."""
    try:
        replica.receive(record)
    except PeerError as error:
        return error.reason
    return ""


def ask(
    asking: Generator[Question, tuple[bytes, ...], list[tuple[int, int]]],
    respond: Callable[[Question], tuple[bytes, ...]],
) -> tuple[list[tuple[int, int]], int]:
    """What a search finds, and how many questions it takes."""
    question, count = next(asking), 1
    while True:
        try:
            question = asking.send(respond(question))
        except StopIteration as done:
            return done.value, count
        count += 1


def differences(one: Book, other: Book, last: int) -> list[tuple[int, int]]:
    """The rounds before `last` in which they differ."""
    return ask(search(one, 0, last), lambda question: answer(other, question))[0]


def synchronise(peers: list[Replica], last: int) -> None:
    """Exchange what differs until nobody differs: what two peers do when they meet, for all pairs."""
    for _ in range(len(peers) + 1):
        for one in peers:
            for other in peers:
                for first, end in differences(one.book, other.book, last):
                    there, here = list(other.records(first, end)), list(one.records(first, end))
                    for record in there:
                        deliver(one, record)
                    for record in here:
                        deliver(other, record)
        for peer in peers:
            peer.settle()
        if len({seal(peer.master, last) for peer in peers}) == 1:
            return
    raise AssertionError("peers still differ")


def quadratic(target: Tensor) -> Callable[[Tensor], float]:
    return lambda weights: float(((weights - target).double() ** 2).sum()) / 2


def gaussian(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))
