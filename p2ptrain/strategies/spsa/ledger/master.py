"""The lattice that follows a book: master = start - sum over the set of (step of the byte's round) * byte * noise.

The sum is linear in integers, so there is nothing to roll back: a late byte, a bound that moved because of it, a byte
that lost against another one are all the same, the difference of what should be applied to what was.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from p2ptrain.strategies.spsa.arithmetic.lattice import Lattice, Steps
from p2ptrain.strategies.spsa.arithmetic.rule import Rule, bounded
from p2ptrain.strategies.spsa.ledger.book import NOTHING, Book, Page


@dataclass(frozen=True, eq=False)
class Applied:
    """A span as it is in the master."""

    page: Page
    exponent: int
    """What its slopes are bounded by."""


class Master:
    """One peer's integers, and which bytes are in them. All but `Lattice.subtract` takes no time to speak of."""

    def __init__(self, lattice: Lattice, book: Book) -> None:
        """`lattice` is the run's start: no byte is in it."""
        self.lattice, self.book = lattice, book
        self._applied: dict[int, Applied] = {}

    @property
    def pages(self) -> dict[int, Page]:
        """The set that is applied."""
        return {span: applied.page for span, applied in sorted(self._applied.items())}

    def load(self, lattice: Lattice, pages: dict[int, Page]) -> None:
        """Go on from integers in which the bytes of these pages are, and no others: a checkpoint's, or a donor's."""
        self.lattice, self._applied = lattice, self._wanted(pages)

    def settle(self) -> int:
        """Apply what the book has and the master has not; how many steps along noise that took."""
        steps = self.plan()
        self.lattice.subtract(steps)
        return len(steps)

    def plan(self, before: int | None = None) -> Steps:
        """The first half of `settle`, quick: what the caller must now subtract from `lattice`, on whatever thread. Only
        bytes of rounds `before` that one are to be in it, all if there is none given."""
        wanted = self._wanted(self.book.pages)
        if before is not None:
            wanted = self._older(wanted, before)
        steps = difference(wanted, self._applied, self.book.rule)
        self._applied = wanted
        return steps

    def missing(self) -> int:
        """How many steps along noise `settle` would take."""
        return len(difference(self._wanted(self.book.pages), self._applied, self.book.rule))

    def before(self, round_number: int) -> Lattice:
        """A copy as it would be with the bytes of earlier rounds only, which may be compared with other peers'."""
        lattice = self.lattice.clone()
        lattice.subtract(difference(self._older(self._applied, round_number), self._applied, self.book.rule))
        return lattice

    def pages_before(self, round_number: int) -> dict[int, Page]:
        """What is in the integers that `before` gives."""
        return {span: applied.page for span, applied in sorted(self._older(self._applied, round_number).items())}

    def _older(self, spans: dict[int, Applied], round_number: int) -> dict[int, Applied]:
        return {
            span: Applied(found, applied.exponent)
            for span, applied in spans.items()
            if (found := _cut(applied.page, round_number - span * self.book.rule.span)) is not None
        }

    def _wanted(self, pages: dict[int, Page]) -> dict[int, Applied]:
        if pages is self.book.pages:
            book = self.book
        else:
            book = Book(self.book.rule, self.book.identity)
            book.load(pages)
        return {span: Applied(page, book.exponent(span)) for span, page in pages.items()}


def difference(wanted: dict[int, Applied], present: dict[int, Applied], rule: Rule) -> Steps:
    """What leads from one set of applied spans to the other: nothing for evaluations that count the same in both."""
    nothing = np.zeros((rule.span, rule.samples_max), np.int64)
    parts = []
    for span in sorted(wanted.keys() | present.keys()):
        new, old = wanted.get(span), present.get(span)
        if new is not None and old is not None and new.page is old.page and new.exponent == old.exponent:
            continue
        new_sizes, old_sizes = _sizes(new, span, rule), _sizes(old, span, rule)
        for slot in sorted(new_sizes.keys() | old_sizes.keys()):
            sizes = new_sizes.get(slot, nothing) - old_sizes.get(slot, nothing)
            lines, samples = np.nonzero(sizes)
            names = np.stack([span * rule.span + lines, np.full_like(lines, slot), samples], axis=1)
            parts.append(Steps(names.astype(np.uint32), sizes[lines, samples]))
    return Steps.join(parts)


def _sizes(applied: Applied | None, span: int, rule: Rule) -> dict[int, NDArray[np.int64]]:
    """Per slot (span, samples_max): c_t * byte in lattice units, 0 where there is NOTHING."""
    if applied is None:
        return {}
    counts = applied.page.counts.tolist()

    @cache
    def units(exponent: int) -> NDArray[np.int64]:
        """(span, 1)"""
        rounds = enumerate(counts, span * rule.span)
        return np.array([rule.step_size(number, exponent, count) if count else 0 for number, count in rounds])[:, None]

    sizes: dict[int, NDArray[np.int64]] = {}
    for slot, row in applied.page.rows.items():
        said, exponents = bounded(row, applied.exponent)
        sizes[slot] = np.zeros(row.shape, np.int64)
        for exponent in np.unique(exponents[said != 0]).tolist():
            sizes[slot] += np.where(exponents == exponent, said, 0) * units(exponent)
    return sizes


def _cut(page: Page, lines: int) -> Page | None:
    """The first rounds of a page, None if nothing is there; the page itself if that is all of it."""
    if lines <= 0:
        return None
    if lines >= len(page.counts) or not page.counts[lines:].any():
        return page
    rows = {slot: row.copy() for slot, row in page.rows.items() if (row[:lines] != NOTHING).any()}
    for row in rows.values():
        row[lines:] = NOTHING
    return Page(rows) if rows else None
