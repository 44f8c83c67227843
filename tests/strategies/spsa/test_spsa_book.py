"""The set of bytes: the same for everyone who has seen the same, in whatever order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import PeerError
from p2ptrain.strategies.spsa.arithmetic.rule import Rule
from p2ptrain.strategies.spsa.ledger.audit import fingerprint
from p2ptrain.strategies.spsa.ledger.batch import Batch, Run
from p2ptrain.strategies.spsa.ledger.book import AHEAD_MAX, Book

RULE = Rule(span=4, samples_max=4)
Entry = tuple[int, int, int, int, int]
ENTRY: st.SearchStrategy[Entry] = st.tuples(
    st.integers(0, 40), st.integers(0, 3), st.integers(0, 3), st.integers(-127, 127), st.integers(-7, -5)
)
"""Round, slot, sample, byte, exponent: with few keys, so that many conflict."""


def byte(number: int, slot: int, sample: int, value: int, exponent: int = RULE.exponent) -> Batch:
    return Batch(slot, (Run(number, sample, bytes([value % 256]), exponent),))


def book_of(batches: list[Batch], rule: Rule = RULE) -> Book:
    book = Book(rule, b"i" * 32)
    for batch in batches:
        book.put(batch)
    return book


def state(book: Book) -> tuple[bytes, dict[int, int], list[Batch], dict[int, int]]:
    return (
        fingerprint(book, 0, 1 << 32),
        {span: book.exponent(span) for span in range(14)},
        list(book.batches()),
        book.heads,
    )


@given(st.lists(ENTRY, max_size=60), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(entries: list[Entry], rng: object) -> None:
    batches = [byte(*entry) for entry in entries]
    again = batches + batches[::2]
    rng.shuffle(again)  # type: ignore[attr-defined]
    asked = Book(RULE, b"i" * 32)
    for batch in again:
        asked.put(batch)
        asked.exponent(7)  # what was told before a late byte came must not be believed after it
    assert state(asked) == state(book_of(batches))
    assert state(book_of(list(asked.batches()))) == state(asked)


@given(st.lists(ENTRY, min_size=1, max_size=60))
def test_exponents_are_what_the_rule_says(entries: list[Entry]) -> None:
    book = book_of([byte(*entry) for entry in entries])
    said: dict[int, dict[int, list[int]]] = {}
    for batch in book.batches():
        for run in batch.runs:
            for size in map(abs, np.frombuffer(run.content, np.int8).tolist()):
                # The scale that would be right for this one alone: 2^scale * 11 <= size * 2^exponent < 2^scale * 22.
                right = next(x for x in range(-4, 5) if x == 4 or max(size, 1) < 22 * 2.0**x) if size < 127 else 4
                said.setdefault(run.round // 4, {}).setdefault(batch.slot, []).append(run.exponent + right)
    wanted: dict[int, int] = {}
    for span in range(14):
        before = [each for each in said if each <= span - 2]
        votes = [sorted(right)[(len(right) - 1) // 2] for right in said[max(before)].values()] if before else []
        wanted[span] = sorted(votes)[(len(votes) - 1) // 2] if votes else RULE.exponent
    assert {span: book.exponent(span) for span in range(14)} == wanted


def test_a_round_may_hold_several_scales() -> None:
    batches = [byte(1, 0, 0, 5, -6), byte(1, 0, 1, 6, -6), byte(1, 0, 2, 7, -5), byte(1, 0, 3, 8, -6)]
    book = book_of(batches)
    assert [[len(run.content) for run in batch.runs] for batch in book.batches()] == [[2], [1], [1]]
    assert state(book_of(list(book.batches()))) == state(book)
    assert fingerprint(book_of(batches[:1]), 0, 4) != fingerprint(book_of([byte(1, 0, 0, 5, -5)]), 0, 4)


def test_of_two_bytes_for_one_evaluation_one_wins_everywhere() -> None:
    candidates = [byte(1, 2, 3, 5), byte(1, 2, 3, -6), byte(1, 2, 3, 5, -3)]
    one, other = book_of(candidates), book_of(candidates[::-1])
    assert list(one.batches()) == list(other.batches())
    put = one.put(byte(1, 2, 3, 99))
    assert put.new == 0
    assert put.conflicts == ((1, 2, 3),)


def test_a_long_history_is_no_recursion() -> None:
    book = book_of([byte(4 * span, 0, 0, 20) for span in range(5000)])
    assert book.exponent(5001) == RULE.exponent


def test_one_peer_has_one_vote_on_the_scale() -> None:
    honest = [byte(number, slot, 0, 20) for number in range(4) for slot in range(3)]
    flood = [byte(number, 9, sample, 127) for number in range(4) for sample in range(4)]
    assert book_of(honest + flood).exponent(2) == book_of(honest).exponent(2) == RULE.exponent


def test_who_says_far_more_than_the_others_is_loud() -> None:
    book = book_of([byte(number, slot, 0, 20 + slot) for number in range(4) for slot in range(3)])
    assert book.pages[0].loud() == []
    book.put(byte(0, 9, 0, -127))
    book.put(byte(0, 8, 0, 30, RULE.exponent + 2))
    book.put(byte(0, 7, 0, 80, RULE.exponent - 2))
    assert book.pages[0].loud() == [8, 9]


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (byte(5, 0, 4, 1), "flooding"),
        (Batch(0, (Run(5, 2, b"\x01\x02\x03", -6),)), "flooding"),
        (byte(10 + AHEAD_MAX + 1, 0, 0, 1), "ahead"),
        (byte(3, 0, 1, 1), "closed"),
        (Batch(0, (Run(3, 1, b"\x01", -6), Run(9, 0, b"\x01", -6))), "closed"),
        (byte(3, 0, 0, 8), "closed"),
        (byte(3, 0, 0, 7, -5), "closed"),
    ],
)
def test_what_must_not_be_put_is_named(batch: Batch, reason: str) -> None:
    book = book_of([byte(3, 0, 0, 7)])
    book.closed = 4
    with pytest.raises(PeerError) as caught:
        book.check(batch, now=10)
    assert caught.value.reason == reason
    book.check(byte(3, 0, 0, 7), now=10)
    book.check(byte(4, 0, 3, 7), now=10)


def test_half_of_the_peers_make_the_frontier() -> None:
    book = book_of([byte(number, slot, 0, 1) for slot, number in enumerate((10, 20, 30, 4000))])
    assert book.frontier() == 20
    assert book.frontier(without={0, 1}) == 30
    assert [book.frontier(f=f) for f in range(4)] == [4000, 30, 20, 20]
    assert Book(RULE, b"").frontier() == Book(RULE, b"").frontier(f=1) == -1


@settings(max_examples=30)
@given(st.lists(ENTRY, max_size=40))
def test_batches_give_the_set_back(entries: list[Entry]) -> None:
    book = book_of([byte(*entry) for entry in entries])
    keys = {(number, slot, sample) for number, slot, sample, *_ in entries}
    assert {evaluation for batch in book.batches() for evaluation, _ in batch.entries()} == keys
