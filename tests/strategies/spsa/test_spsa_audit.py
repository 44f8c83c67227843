"""Peers that differ find out where, and who is at fault."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onebyte_swarm import Peers, ask, differences, gaussian

from p2ptrain.errors import PeerError
from p2ptrain.strategies.spsa.arithmetic.rule import Rule
from p2ptrain.strategies.spsa.ledger.audit import (
    QUESTIONS_MAX,
    Question,
    Seal,
    agreed,
    answer,
    fingerprint,
    judge,
    seal,
    search,
)
from p2ptrain.strategies.spsa.ledger.batch import Batch, Run
from p2ptrain.strategies.spsa.ledger.book import Book

RULE = Rule(span=4, samples_max=4)
LAST = 5000


def full() -> Book:
    book = Book(RULE, b"i" * 32)
    for slot in range(3):
        book.put(
            Batch(
                slot, tuple(Run(number, 0, bytes([number % 100 + slot]), RULE.exponent) for number in range(0, LAST, 2))
            )
        )
    return book


SAME = full()


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, LAST - 1), max_size=6))
def test_bisection_finds_every_difference(rounds: set[int]) -> None:
    other = Book(RULE, b"i" * 32)
    other.load(SAME.pages)
    for number in rounds:
        other.put(Batch(2, (Run(number, 1, b"\x05", RULE.exponent),)))
    for found in (differences(SAME, other, LAST), differences(other, SAME, LAST)):
        assert {number for first, end in found for number in range(first, end)} == rounds


def test_four_questions_find_one_round_in_twenty_thousand() -> None:
    other = Book(RULE, b"i" * 32)
    other.load(SAME.pages)
    other.put(Batch(2, (Run(777, 1, b"\x05", RULE.exponent),)))
    assert ask(search(SAME, 0, 20_000), lambda question: answer(other, question)) == ([(777, 778)], 4)


def test_who_only_pretends_to_differ_is_not_asked_for_ever() -> None:
    def pretend(question: Question) -> tuple[bytes, ...]:
        return tuple(b"?" if end - first > 1 else fingerprint(SAME, first, end) for first, end in question.parts)

    assert ask(search(SAME, 0, 1 << 32), pretend) == ([], QUESTIONS_MAX)


def test_an_answer_of_another_length_is_refused() -> None:
    asking = search(SAME, 0, 100)
    next(asking)
    with pytest.raises(PeerError, match="malformed"):
        asking.send((b"",))


@pytest.mark.parametrize("parts", [((0, 1),) * 17, ((3, 3),), ((-1, 2),), ((0, 1 << 33),)])
def test_a_question_out_of_bounds_is_refused(parts: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(PeerError, match="malformed"):
        answer(SAME, Question(parts))


def test_the_odd_one_out_is_named_with_what_is_wrong() -> None:
    common = Seal(16, b"log", b"master")
    seals = {"a": common, "b": common, "c": Seal(16, b"log", b"broken"), "d": Seal(16, b"less", b"other")}
    assert judge(seals) == (common, {"c": "master", "d": "log"})


def test_a_flipped_bit_of_the_master_shows_in_its_seal() -> None:
    peers = Peers(RULE, gaussian(100, 0), 2)
    for replica in peers.replicas:
        replica.book.put(Batch(0, (Run(0, 0, b"\x14", RULE.exponent), Run(9, 0, b"\x14", RULE.exponent))))
        replica.settle()
    one, other = (replica.master for replica in peers.replicas)
    assert seal(one, 5) == seal(other, 5)
    other.lattice.values[50] ^= 1
    assert seal(one, 5).log == seal(other, 5).log
    assert seal(one, 5).master != seal(other, 5).master


@pytest.mark.parametrize(
    ("votes", "present", "want"),
    [
        ({}, {1}, None),
        ({1: b"a", 2: b"a", 3: b"b"}, {1, 2, 3}, b"a"),
        ({1: b"b", 2: b"a"}, {1, 2}, b"a"),  # as many: the lower
        ({1: b"a", 2: b"a"}, {1, 2, 3}, b"a"),  # whatever 3 will say
        ({1: b"a", 2: b"b"}, {1, 2, 3}, None),
        ({1: b"a"}, {1, 2}, None),
        ({1: b"a", 9: b"b", 8: b"b"}, {1}, b"b"),  # who has left has voted all the same
    ],
)
def test_what_most_have_said_counts_once_nobody_can_change_it(
    votes: dict[int, bytes], present: set[int], want: bytes | None
) -> None:
    assert agreed(votes, present) == want
