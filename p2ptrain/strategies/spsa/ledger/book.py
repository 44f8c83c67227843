"""The set of bytes: grows only, takes them in any order, and holds the same for everyone who has seen the same.

It is kept in pages, one per span of rounds. Pages never change, a byte makes a new one, so that what was done with a
page earlier can be told by comparing it.
"""

import bisect
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from p2ptrain.errors import PeerError
from p2ptrain.strategies.spsa.arithmetic.noise import Evaluation
from p2ptrain.strategies.spsa.arithmetic.rule import Rule, exponent_for, low_median, parts_of, sizes_of
from p2ptrain.strategies.spsa.ledger.batch import Batch, Run

NOTHING = -(1 << 15)
"""No byte: what looks like one of 0, at a scale that there is not."""
EVERYTHING = 1 << 32
"""Beyond all rounds."""
AHEAD_MAX = 4096
"""Rounds that a byte may be ahead of us: a peer that is far ahead must not make us keep pages without end."""
LOUD = 4
"""A peer whose median slope is so many times the swarm's is named."""


@dataclass(frozen=True, eq=False)
class Page:
    """The bytes of one span: per slot (span, samples_max) codes, NOTHING where there is none."""

    rows: Mapping[int, NDArray[np.int16]]

    @cached_property
    def medians(self) -> dict[int, float]:
        """Of each slot, the median size of its slopes."""
        return {slot: low_median(sizes_of(row[row != NOTHING]).tolist()) for slot, row in sorted(self.rows.items())}

    @cached_property
    def exponent(self) -> int:
        """The scale that is right for these slopes: of all slots, for their medians, so that one peer has one vote
        however much it says."""
        return exponent_for(self.median)

    @cached_property
    def median(self) -> float:
        """Of all slots, of their medians."""
        return low_median(self.medians.values())

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(span,) evaluations of each round."""
        return (np.stack(list(self.rows.values())) != NOTHING).sum(axis=(0, 2))

    @cached_property
    def contents(self) -> list[bytes]:
        """Per round, its place in the page and a hash of what it holds; empty for nothing."""
        return [
            line.to_bytes(2, "little") + self._digest(line) if count else b"" for line, count in enumerate(self.counts)
        ]

    @cached_property
    def content(self) -> bytes:
        """Of all rounds."""
        return b"".join(self.contents)

    def loud(self) -> list[int]:
        """Slots that say far larger slopes than most."""
        return [slot for slot, median in self.medians.items() if median >= LOUD * self.median]

    def _digest(self, line: int) -> bytes:
        said = hashlib.sha256()
        for slot, row in sorted(self.rows.items()):
            if (row[line] != NOTHING).any():
                said.update(slot.to_bytes(4, "little") + row[line].astype("<i2").tobytes())
        return said.digest()


@dataclass(frozen=True)
class Put:
    """What a batch brought."""

    new: int = 0
    """Evaluations that were not known."""
    conflicts: tuple[Evaluation, ...] = ()
    """Evaluations for which its sender had said another byte."""
    changed: bool = False
    """Whether any byte that counts is different now."""


class Book:
    """All bytes of one run, as far as one peer knows them."""

    def __init__(self, rule: Rule, identity: bytes) -> None:
        self.rule, self.identity = rule, identity
        self.pages: dict[int, Page] = {}
        self.heads: dict[int, int] = {}
        """The last round of each slot."""
        self.closed = 0
        """Rounds before this take no new bytes."""
        self._order: list[int] = []  # spans that have a page, sorted

    def check(self, batch: Batch, now: int, mending: bool = False) -> None:
        """Whether a batch may be put, at round `now` of this peer. Raises `PeerError`: `flooding` for more samples per
        round than count; `ahead`, to be asked for again later; `closed` for anything new in a round that is closed,
        unless it is `mending`."""
        for run in batch.runs:
            if run.first_sample + len(run.content) > self.rule.samples_max:
                raise PeerError("flooding", f"slot {batch.slot} has over {self.rule.samples_max} samples in a round")
            if run.round > now + AHEAD_MAX:
                raise PeerError("ahead", f"slot {batch.slot} is at round {run.round}, we are at {now}")
            if run.round < self.closed and not mending and not self._holds(batch.slot, run):
                raise PeerError(
                    "closed", f"slot {batch.slot} has a new byte for round {run.round}, before {self.closed}"
                )

    def put(self, batch: Batch) -> Put:
        """Take in what is new. Of two bytes for one evaluation the one with the lower hash counts, everywhere."""
        rows: dict[int, NDArray[np.int16]] = {}
        new, conflicts, changed = 0, [], set[int]()
        for run in batch.runs:
            span, line = divmod(run.round, self.rule.span)
            if span not in rows:
                rows[span] = self._row(span, batch.slot)
            for sample, code in run.entries():
                old = int(rows[span][line, sample])
                if old == code:
                    continue
                if old == NOTHING:
                    new += 1
                else:
                    evaluation = Evaluation(run.round, batch.slot, sample)
                    conflicts.append(evaluation)
                    code = self._winner(evaluation, old, code)
                if old != code:
                    rows[span][line, sample] = code
                    changed.add(span)
        for span in sorted(changed):
            self._replace(span, batch.slot, rows[span])
        self.heads[batch.slot] = max(self.heads.get(batch.slot, 0), batch.runs[-1].round)
        return Put(new, tuple(conflicts), bool(changed))

    def load(self, pages: Mapping[int, Page]) -> None:
        """Hold exactly these pages."""
        self.pages, self._order = dict(pages), sorted(pages)

    def holds(self, batch: Batch) -> bool:
        """Whether every byte of it is known and counts."""
        return all(self._holds(batch.slot, run) for run in batch.runs)

    def exponent(self, span: int) -> int:
        """Two to this is the scale in which to say bytes of a span, as far as this peer can tell. None of them counts
        as more than 127 times this."""
        place = bisect.bisect_right(self._order, span - 2)
        return self.pages[self._order[place - 1]].exponent if place else self.rule.exponent

    def between(self, first: int, last: int) -> list[int]:
        """The spans that have a page and a round in [first, last), in order."""
        low = bisect.bisect_left(self._order, first // self.rule.span)
        return self._order[low : bisect.bisect_left(self._order, -(-last // self.rule.span))]

    def frontier(self, without: Collection[int] = (), f: int | None = None) -> int:
        """The round that more than `f` of the peers have reached, or more than half if they are fewer than that, or
        None is given: so many that rush ahead take nobody along. -1: there is nobody."""
        heads = sorted((head for slot, head in self.heads.items() if slot not in without), reverse=True)
        half = len(heads) // 2
        return heads[half if f is None else min(f, half)] if heads else -1

    def entries(self, first: int, last: int) -> Iterator[tuple[Evaluation, int]]:
        """What counts in rounds [first, last): codes."""
        pages = {span: self.pages[span] for span in self.between(first, last)}
        for batch in batches_of(pages, self.rule.span):
            yield from (entry for entry in batch.entries() if first <= entry[0].round < last)

    def batches(self) -> Iterator[Batch]:
        """Everything that counts, unsigned, one batch per slot."""
        return batches_of(self.pages, self.rule.span)

    def _replace(self, span: int, slot: int, row: NDArray[np.int16]) -> None:
        old = self.pages.get(span)
        self.pages[span] = Page({**(old.rows if old else {}), slot: row})
        if old is None:
            bisect.insort(self._order, span)

    def _row(self, span: int, slot: int) -> NDArray[np.int16]:
        page = self.pages.get(span)
        if page is not None and slot in page.rows:
            return page.rows[slot].copy()
        return np.full((self.rule.span, self.rule.samples_max), NOTHING, np.int16)

    def _holds(self, slot: int, run: Run) -> bool:
        span, line = divmod(run.round, self.rule.span)
        page = self.pages.get(span)
        if page is None or slot not in page.rows:
            return False
        return np.array_equal(page.rows[slot][line, run.first_sample :][: len(run.content)], run.codes())

    def _winner(self, evaluation: Evaluation, *candidates: int) -> int:
        def digest(code: int) -> bytes:
            return hashlib.sha256(self.identity + repr((*evaluation, code)).encode()).digest()

        return min(candidates, key=digest)


def batches_of(pages: Mapping[int, Page], span: int) -> Iterator[Batch]:
    """The bytes of some pages, one batch per slot; where a round lacks a sample in between, or changes its scale, a
    second for what is behind it, and so on."""
    rows: dict[int, list[tuple[int, NDArray[np.int16]]]] = {}
    for number, page in sorted(pages.items()):
        for slot, row in page.rows.items():
            rows.setdefault(slot, []).append((number * span, row))
    for slot, parts in sorted(rows.items()):
        layers: list[list[Run]] = []
        for start, row in parts:
            for line in np.flatnonzero((row != NOTHING).any(axis=1)).tolist():
                for depth, run in enumerate(_pieces(start + line, row[line])):
                    if depth == len(layers):
                        layers.append([])
                    layers[depth].append(run)
        for layer in layers:
            yield Batch(slot, tuple(layer))


def _pieces(round_number: int, line: NDArray[np.int16]) -> Iterator[Run]:
    """What a round holds, where samples follow each other and have one scale."""
    present, (said, exponents) = np.flatnonzero(line != NOTHING), parts_of(line)
    ends = np.flatnonzero((np.diff(present) > 1) | (np.diff(exponents[present]) != 0)) + 1
    for piece in np.split(present, ends):
        content = said[piece].astype(np.int8).tobytes()
        yield Run(round_number, int(piece[0]), content, int(exponents[piece[0]]))
