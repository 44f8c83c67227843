"""The master is a function of the set: in pieces, in one piece, with late bytes and scales that move."""

import random

import pytest
import torch
from onebyte_swarm import Peers, gaussian

from p2ptrain.strategies.spsa.arithmetic.lattice import Lattice
from p2ptrain.strategies.spsa.arithmetic.noise import Evaluation, signs
from p2ptrain.strategies.spsa.arithmetic.rule import Rule, key_of
from p2ptrain.strategies.spsa.ledger.batch import Batch, Run
from p2ptrain.strategies.spsa.ledger.book import Book
from p2ptrain.strategies.spsa.ledger.master import Master

RULE = Rule(lr=0.01, span=4, samples_max=4)
WEIGHTS = gaussian(300, 0)


def random_batches(rng: random.Random, count: int = 200) -> list[Batch]:
    out = []
    for _ in range(count):
        content = bytes(rng.choice([0, 3, 20, 60, 127, 200, 255]) for _ in range(rng.randint(1, 2)))
        out.append(Batch(rng.randrange(4), (Run(rng.randrange(40), rng.randrange(3), content, rng.randint(-8, -4)),)))
    return out


def new_master() -> Master:
    peers = Peers(RULE, WEIGHTS, 1)
    return Master(peers.start(), Book(RULE, peers.identity))


@pytest.mark.parametrize("seed", range(5))
def test_settling_in_pieces_is_settling_at_once(seed: int) -> None:
    rng = random.Random(seed)
    master, peers = new_master(), Peers(RULE, WEIGHTS, 1)
    for batch in random_batches(rng):
        master.book.put(batch)
        if rng.random() < 0.2:
            master.settle()
    master.settle()
    assert master.lattice.digest() == peers.fresh(master.book).lattice.digest()
    assert master.settle() == 0
    assert sorted(master.pages) == sorted(master.book.pages)


@pytest.mark.parametrize("number", [0, 1, 4, 17, 23, 40, 1000])
def test_the_past_can_be_seen(number: int) -> None:
    batches, past = random_batches(random.Random(1)), new_master()
    now = new_master()
    for batch in batches:
        now.book.put(batch)
        if batch.runs[0].round < number:
            past.book.put(batch)
    now.settle()
    past.settle()
    assert now.before(number).digest() == past.lattice.digest()


def test_it_is_the_sum_that_is_defined() -> None:
    master = new_master()
    entries = [(0, 0, 0, 20, -6), (0, 1, 0, -30, -9), (1, 0, 0, 127, -6), (9, 2, 3, 5, -6)]
    for number, slot, sample, value, exponent in entries:
        master.book.put(Batch(slot, (Run(number, sample, bytes([value % 256]), exponent),)))
    master.settle()
    expected = Lattice.of(master.lattice.key, WEIGHTS).values
    for number, slot, sample, value, exponent in entries:
        step = RULE.step_size(number, exponent, 2 if number == 0 else 1)
        noise = signs(master.lattice.key, Evaluation(number, slot, sample), 300)
        expected = expected - step * value * torch.from_numpy(noise).long()
    assert torch.equal(master.lattice.values, expected)


def test_a_lie_is_clipped_to_what_the_swarm_says() -> None:
    bounds, steps = set(), set()
    for exponent in (-6, -2, 5, 40):
        master = new_master()
        for number, slot in [(number, slot) for number in range(8) for slot in range(3)]:
            master.book.put(Batch(slot, (Run(number, 0, b"\x14", -6),)))
        before = master.lattice.clone()
        master.book.put(Batch(3, (Run(9, 0, b"\x81", exponent),)))
        before.subtract(master.plan(9))
        bounds.add(master.book.exponent(9 // 4))
        master.lattice = before.clone()
        master.settle()
        steps.add(int((master.lattice.values - before.values).abs().max()))
    assert bounds == {-6}
    assert steps == {127 * RULE.step_size(9, -6, 1)}


def test_what_a_byte_means_is_the_same_for_all_whatever_they_have_heard() -> None:
    """Two halves that heard only themselves for long: what one has said moves the other's model as it moved its own."""
    said = {
        half: [
            Batch(2 * half + slot, (Run(number, 0, bytes([rng.randint(12, 30)]), -6 - half),))
            for number in range(400)
            for slot in range(2)
        ]
        for half, rng in enumerate((random.Random(0), random.Random(1)))
    }
    alone = new_master()
    for batch in said[0]:
        alone.book.put(batch)
    alone.settle()
    both, others = new_master(), new_master()
    for batch in said[0] + said[1]:
        both.book.put(batch)
    for batch in said[1]:
        others.book.put(batch)
    both.settle()
    others.settle()
    start = new_master().lattice.values
    apart = (alone.lattice.values - start) + (others.lattice.values - start)
    # Each round has twice as many bytes as before, so that each counts half. Steps are rounded to one unit per byte.
    assert (2 * (both.lattice.values - start) - apart).abs().max() <= 2 * 400 * 4 * 30


def test_a_late_byte_costs_its_round_and_no_more() -> None:
    master = new_master()
    for number in range(40):
        for slot in range(4):
            master.book.put(Batch(slot, (Run(number, 0, bytes([20 + slot]), -6),)))
    assert master.settle() == 160
    master.book.put(Batch(3, (Run(2, 1, b"\x14", -6),)))
    assert master.settle() == 5


def test_another_run_has_other_noise() -> None:
    one = RULE.identify("one", b"", b"")
    other = RULE.identify("other", b"", b"")
    assert key_of(one) != key_of(other)
