"""One peer's part in a run, without network and clock: it evaluates, signs and keeps bytes, and follows everybody's.

The caller carries records to other peers, as often as it likes and in any order, and decides when a round is closed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from torch import Tensor

from p2ptrain.errors import PeerError
from p2ptrain.ports import Bytes, Disk
from p2ptrain.strategies.spsa.arithmetic.lattice import Lattice
from p2ptrain.strategies.spsa.arithmetic.noise import Evaluation
from p2ptrain.strategies.spsa.arithmetic.rule import Rule, quantise
from p2ptrain.strategies.spsa.arithmetic.slope import slope
from p2ptrain.strategies.spsa.ledger import snapshot
from p2ptrain.strategies.spsa.ledger.batch import SIZE_BYTES_MAX, Batch, Run, Sign, Verify, decode, encode
from p2ptrain.strategies.spsa.ledger.book import NOTHING, Book, Put
from p2ptrain.strategies.spsa.ledger.log import Log
from p2ptrain.strategies.spsa.ledger.master import Master

SIGNED_MAX = 1024
"""Evaluations per batch: small enough for the largest encoding they may have."""
COVER_EVALUATIONS = 256
COVERED_MIN = 8
"""A batch that says again what others said is kept only if it saves so many signatures."""


class Credentials(NamedTuple):
    """Who this peer is in the run."""

    slot: int
    sign: Sign
    verify: Verify


class Replica:
    """The state of one peer: a book, the master that follows it, and the log on its disk."""

    def __init__(
        self,
        rule: Rule,
        identity: bytes,
        start: Lattice,
        disk: Disk,
        credentials: Credentials,
        members: Mapping[int, bytes],
    ) -> None:
        """`start`: the run's first integers, taken over. `members`: the public key of each slot; may change later."""
        self.rule, self.identity, self.members = rule, identity, members
        self.slot = credentials.slot
        self.book = Book(rule, identity)
        self.master = Master(start, self.book)
        self.log = Log(disk, identity)
        self.refused: Counter[tuple[int, str]] = Counter()
        """How often something that a slot did sign was refused, by (slot, reason)."""
        self.evidence: dict[int, tuple[Batch, Batch]] = {}
        """Per slot that signed two bytes for one evaluation, two batches that show it."""
        self.left: set[int] = set()
        """Slots of peers that are gone, or have finished; for the caller to fill."""
        self.f: int | None = None
        """So many peers may rush ahead and take nobody along; None: nearly half. For the caller to set."""
        self.round, self.sample, self.exponent = 0, 0, rule.exponent
        self._credentials, self._disk = credentials, disk
        self._unsigned: list[Run] = []
        self._signed: list[bytes] = []
        self._uncovered: list[Run] = []
        self._num_uncovered = 0  # in so many batches

    def restore(self) -> list[str]:
        """Go on from the disk, and `settle` before anything else; what was damaged, in words. Whatever was not
        published is gone, for everyone.

        If there are such notes, bytes of our own may be gone that others have: get theirs before evaluating."""
        notes = self.log.load()
        self.book.closed = self.log.closed
        for batch in self.log.batches.values():
            self._witness(batch, self.book.put(batch))
        size = self.master.lattice.values.numel()
        found, more = snapshot.latest(self._disk, self.rule, self.identity, size)
        if found is not None:
            self.adopt(found)
        self.advance()
        return notes + more

    def adopt(self, found: snapshot.Snapshot) -> None:
        """Take over a master: what it has and the book has not goes with the next `settle`, and the other way round."""
        old = self.master.lattice
        self.master.load(found.lattice(old.key, old.values.device), found.pages)

    def advance(self) -> None:
        """Go on to the next round, or to the one after the others' frontier: a round's step is shared by those who take
        part in it, and alone in its rounds a peer would take the model along. A round's bytes have one scale."""
        self.round = 1 + max(self.book.heads.get(self.slot, -1), self.book.frontier({*self.left, self.slot}, self.f))
        self.sample = 0
        self.exponent = self.book.exponent(self.round // self.rule.span)

    def frontier(self) -> int:
        """The round that the swarm has reached, this peer included."""
        return self.book.frontier(self.left, self.f)

    def evaluate(self, loss_at: Callable[[Tensor], float], out: Tensor) -> int:
        """Measure the slope along the next noise of this round, and say it; the byte. `out`, (d,), is overwritten.

        Raises `ValueError` for a slope that is NaN or a round that has all its samples."""
        return self.say(slope(self.master.lattice, self.next(), self.rule.eps, loss_at, out))

    def next(self) -> Evaluation:
        """The next of this round. Raises `ValueError` for a round that has all its samples."""
        if self.sample >= self.rule.samples_max:
            raise ValueError(f"round {self.round} has {self.sample} evaluations of this peer already: advance first")
        return Evaluation(self.round, self.slot, self.sample)

    def say(self, slope: float) -> int:
        """The byte for the slope along the `next` noise. Raises `ValueError` for NaN."""
        byte = quantise(slope, self.exponent)
        run = Run(self.round, self.sample, bytes([byte % 256]), self.exponent)
        self.book.put(Batch(self.slot, (run,)))
        self._unsigned.append(run)
        self.sample += 1
        return byte

    def publish(self) -> list[bytes]:
        """Sign what was measured since the last time and make it durable; records for the others.
        Raises `ConfigError` if the disk does not take it; then try again.

        After many small batches one comes that says all of it again, and saves everyone their signatures."""
        self.sign()
        # A byte that others have and we forgot would be said again, differently: the disk comes first.
        self.log.flush()
        return self.signed()

    def sign(self, hold: bool = False) -> None:
        """The first third of `publish`; the second is `log.flush`, which may run on another thread. `hold`: there will
        be a next time, so that what is beyond a multiple of `audit_every` need not have a signature of its own."""
        parts = list(cut(self._unsigned, self.rule.audit_every))
        self._unsigned = parts.pop() if hold and len(parts) > 1 else []
        for now in parts:
            batch = Batch(self.slot, join(now)).sign(self.identity, self._credentials.sign)
            self.log.add(batch)
            self._signed += [encode(batch), *self._cover(now)]

    def signed(self) -> list[bytes]:
        """The last third of `publish`."""
        records, self._signed = self._signed, []
        return records

    def receive(self, record: Bytes) -> Put:
        """Take in another peer's batch. It is durable after the next `log.flush`.

        Raises `PeerError`: `malformed`, `oversized`, `unknown-slot`, `bad-signature`: the sender's fault;
        `flooding`, `closed`, `ahead`: the signer's, which is counted."""
        record = bytes(record)
        if record in self.log.batches:
            return Put()
        return self._take(self._verified(record), mending=False)

    def replace(self, first: int, last: int, records: Iterable[bytes]) -> tuple[int, int]:
        """Have of rounds [first, last), closed or not, what another peer has, whose batches that touch them these are;
        how many evaluations are new, and how many are gone. Durable after the next `log.flush`.

        Raises `PeerError` as `receive` does, and then nothing has changed."""
        theirs = [self._verified(bytes(record)) for record in records]
        for batch in theirs:
            self.book.check(batch, max(self.round, self.frontier()), mending=True)
        said = {entry for batch in theirs for entry in batch.entries()}
        before = set(self.book.entries(first, last))
        self._forget(
            record
            for record, batch in self.log.batches.items()
            if any(first <= entry[0].round < last and entry not in said for entry in batch.entries())
        )
        for batch in theirs:
            self._take(batch, mending=True)
        after = set(self.book.entries(first, last))
        return len(after - before), len(before - after)

    def drop(self, slot: int) -> None:
        """Forget all bytes of a slot: another key has it."""
        self._forget(record for record, batch in self.log.batches.items() if batch.slot == slot)

    def close(self, round_number: int) -> None:
        """From now on rounds before this one take no new bytes: everyone has the same, or most do."""
        self.log.close(round_number)
        self.log.flush()
        self.book.closed = max(self.book.closed, round_number)

    def settle(self) -> int:
        """Bring the master up to the book."""
        return self.master.settle()

    def said(self, slot: int) -> int:
        """How many evaluations of a slot are known."""
        rows = (page.rows[slot] for page in self.book.pages.values() if slot in page.rows)
        return sum(int((row != NOTHING).sum()) for row in rows)

    def snapshot(self) -> str:
        """Write the settled master to the disk, and the log without what is said twice; the file's name."""
        self.log.fold()
        return snapshot.save(self._disk, snapshot.pack(self.master))

    def records(self, first: int, last: int) -> Iterator[bytes]:
        """The batches that say something of rounds [first, last), for another peer, in the order of their rounds: it
        refuses what is far ahead of what it has."""
        for record, batch in sorted(self.log.batches.items(), key=lambda item: item[1].runs[0].round):
            if batch.runs[0].round < last and batch.runs[-1].round >= first:
                yield record

    def suspects(self, spans: int = 4) -> dict[int, set[str]]:
        """Who did what no honest peer does, or, `loud`, said in each of the last spans that are over slopes of four
        times the swarm's median: perhaps honest, with data of its own kind, and bounded by its byte either way."""
        found: dict[int, set[str]] = {slot: {"equivocation"} for slot in self.evidence}
        for slot, reason in self.refused:
            if reason == "flooding":
                found.setdefault(slot, set()).add(reason)
        last = self.frontier() // self.rule.span
        pages = [self.book.pages[span] for span in range(last - spans, last) if span in self.book.pages]
        if len(pages) == spans:
            for slot in set.intersection(*(set(page.loud()) for page in pages)):
                found.setdefault(slot, set()).add("loud")
        return found

    def _forget(self, records: Iterable[bytes]) -> None:
        self.log.fold(set(records))
        self.book.load({})
        for batch in (*self.log.batches.values(), *(Batch(self.slot, (run,)) for run in self._unsigned)):
            self.book.put(batch)

    def _verified(self, record: bytes) -> Batch:
        if len(record) > SIZE_BYTES_MAX:
            raise PeerError("oversized", f"batch of {len(record)} bytes")
        batch = decode(record)
        if batch.slot not in self.members:
            raise PeerError("unknown-slot", f"bytes of slot {batch.slot}, which nobody has")
        if batch.runs[0].round // self.rule.audit_every != batch.runs[-1].round // self.rule.audit_every:
            raise PeerError("malformed", "batch of rounds that may not be closed together")
        batch.check_signature(self.identity, self.members[batch.slot], self._credentials.verify)
        return batch

    def _take(self, batch: Batch, mending: bool) -> Put:
        if self.book.holds(batch):
            self._keep_cover(batch)
            return Put()
        try:
            self.book.check(batch, max(self.round, self.frontier()), mending)
        except PeerError as error:
            self.refused[batch.slot, error.reason] += 1
            raise
        put = self.book.put(batch)
        witnessed = self._witness(batch, put)
        if put.changed or witnessed:
            self.log.add(batch)
        return put

    def _cover(self, signed: list[Run]) -> list[bytes]:
        """Batches that are due now that these runs were signed."""
        every, covers = self.rule.audit_every, list[bytes]()
        if self._uncovered and self._uncovered[0].round // every != signed[0].round // every:
            covers += self._cover_all()
        self._uncovered += signed
        self._num_uncovered += 1
        return [*covers, *(self._cover_all() if len(self._uncovered) >= COVER_EVALUATIONS else ())]

    def _cover_all(self) -> list[bytes]:
        runs, num_batches = self._uncovered, self._num_uncovered
        self._uncovered, self._num_uncovered = [], 0
        if num_batches < COVERED_MIN:
            return []
        cover = Batch(self.slot, join(runs)).sign(self.identity, self._credentials.sign)
        self._keep_cover(cover)
        return [encode(cover)]

    def _keep_cover(self, batch: Batch) -> None:
        covered = self.log.covered_by(batch)
        if len(covered) >= COVERED_MIN:
            for record in covered:
                del self.log.batches[record]
            self.log.add(batch)

    def _witness(self, batch: Batch, put: Put) -> bool:
        """Keep the first proof of a peer's having said two things; whether this was it."""
        if not put.conflicts or batch.slot in self.evidence:
            return False
        entries = set(batch.entries())
        for other in self.log.batches.values():
            if other.slot == batch.slot and any(
                evaluation in put.conflicts and (evaluation, byte) not in entries
                for evaluation, byte in other.entries()
            ):
                self.evidence[batch.slot] = (other, batch)
                return True
        return False


def cut(runs: Iterable[Run], every: int) -> Iterator[list[Run]]:
    """Into parts that are short enough to be signed together, none of which crosses a multiple of `every` rounds: what
    may be closed at different times must not be in one batch."""
    for _, group in groupby(runs, key=lambda run: run.round // every):
        together = list(group)
        for start in range(0, len(together), SIGNED_MAX):
            yield together[start : start + SIGNED_MAX]


def join(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Runs of one peer in the order in which it made them, one per round."""
    joined: list[Run] = []
    for run in runs:
        if joined and joined[-1].round == run.round:
            joined[-1] = Run(run.round, joined[-1].first_sample, joined[-1].content + run.content, run.exponent)
        else:
            joined.append(run)
    return tuple(joined)
