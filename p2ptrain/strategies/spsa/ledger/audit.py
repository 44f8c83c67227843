"""Do two peers have the same, and if not, where do they differ: pure functions, the caller carries the messages.

seal       what a peer has before some round, in 64 bytes
judge      whose seals are like most, and what is wrong with the others
agreed     what most have said, once no one who is still to speak can change it
search     bisection for the rounds in which two books differ: asks questions, which `answer` answers
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from p2ptrain.errors import PeerError
from p2ptrain.strategies.spsa.ledger.book import Book
from p2ptrain.strategies.spsa.ledger.master import Master

PARTS = 16
"""Each question narrows a range of rounds so many times."""
QUESTIONS_MAX = 256
"""Per search: an other side that only pretends to differ is not asked for ever."""
Fault = Literal["log", "master"]
P = TypeVar("P")


@dataclass(frozen=True)
class Seal:
    """What a peer has of the rounds before one: exchanged every so many rounds."""

    round: int
    log: bytes
    """Of the set of bytes."""
    master: bytes
    """Of the integers with these bytes in them."""


@dataclass(frozen=True)
class Question:
    """What are the hashes of these parts? Each is rounds [first, last)."""

    parts: tuple[tuple[int, int], ...]


def seal(master: Master, round_number: int) -> Seal:
    """Of a settled master. Costs a copy, and taking out what came since."""
    book = master.book
    return Seal(round_number, fingerprint(book, 0, round_number), master.before(round_number).digest())


def judge(seals: Mapping[P, Seal]) -> tuple[Seal, dict[P, Fault]]:
    """The seal that most have of the same round, the lowest of several, and who differs from it: in the set of bytes,
    or, with the same set, in the integers, which only a broken machine or a liar does."""
    ordered = sorted(Counter(seals.values()).items(), key=lambda item: (-item[1], item[0].log, item[0].master))
    common = ordered[0][0]
    faults: dict[P, Fault] = {}
    for peer, found in seals.items():
        assert found.round == common.round
        if found != common:
            faults[peer] = "master" if found.log == common.log else "log"
    return common, faults


def agreed(votes: Mapping[int, bytes], present: Collection[int]) -> bytes | None:
    """What most of the slots have said, the lowest of several; None while those of `present` that have not said
    anything yet could still make it another."""
    if not votes:
        return None
    (common, count), *others = sorted(Counter(votes.values()).items(), key=lambda item: (-item[1], item[0]))
    waited_for = len(set(present) - votes.keys())
    return common if not waited_for or count > waited_for + (others[0][1] if others else 0) else None


def fingerprint(book: Book, first: int, last: int) -> bytes:
    """SHA-256 over what the book has in rounds [first, last)."""
    said, span = hashlib.sha256(), book.rule.span
    for number in book.between(first, last):
        page, low, high = book.pages[number], max(first - number * span, 0), min(last - number * span, span)
        content = page.content if high - low == span else b"".join(page.contents[low:high])
        if content:
            said.update(number.to_bytes(4, "little") + content)
    return said.digest()


def answer(book: Book, question: Question) -> tuple[bytes, ...]:
    """The hashes of the parts. Raises `PeerError("malformed")` for more than a peer needs to ask at once."""
    if len(question.parts) > PARTS or any(not 0 <= first < last <= 1 << 32 for first, last in question.parts):
        raise PeerError("malformed", "a question with too many parts, or with empty ones")
    return tuple(fingerprint(book, first, last) for first, last in question.parts)


def search(
    book: Book, first: int, last: int, limit: int = 64, most: int = PARTS + 1
) -> Generator[Question, tuple[bytes, ...], list[tuple[int, int]]]:
    """Find where another book differs in rounds [first, last): the first `limit` rounds that do, joined to ranges. Of a
    range of which `most` parts differ, no more is asked: all of it is taken to differ.

    Yields questions for the other side, is sent its answers. Raises `PeerError("malformed")` for an answer to
    something else."""
    waiting = [(first, last)]
    found: list[tuple[int, int]] = []
    for _ in range(QUESTIONS_MAX):
        if not waiting or sum(end - start for start, end in found) >= limit:
            break
        start, end = waiting.pop()
        parts = _split(start, end)
        theirs = yield Question(parts)
        if len(theirs) != len(parts):
            raise PeerError("malformed", f"{len(theirs)} hashes for {len(parts)} parts")
        different = [part for part, each in zip(parts, theirs, strict=True) if fingerprint(book, *part) != each]
        if len(different) >= most:
            found = _joined(found, (start, end))
            continue
        for part in different:
            if part[1] - part[0] == 1:
                found = _joined(found, part)
        waiting += reversed([part for part in different if part[1] - part[0] > 1])
    return found


def _split(first: int, last: int) -> tuple[tuple[int, int], ...]:
    width = -(-(last - first) // PARTS)
    return tuple((start, min(start + width, last)) for start in range(first, last, width))


def _joined(ranges: list[tuple[int, int]], part: tuple[int, int]) -> list[tuple[int, int]]:
    if ranges and ranges[-1][1] == part[0]:
        return [*ranges[:-1], (ranges[-1][0], part[1])]
    return [*ranges, part]
