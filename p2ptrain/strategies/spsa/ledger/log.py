"""Signed batches on the disk. A batch is there, whole, once `flush` returned; whatever a crash left of one is ignored.

The log is a set: batches may be there twice, in any order, and some be lost with a damaged file; peers have them too.
It consists of segments, files that begin with a magic and the run's identity and hold frames:

    uint32     length of the batch
    uint32     CRC-32 of the batch
    batch      as in `batch.py`; or four bytes, the round before which all is closed

A segment is written beside the old one and renamed, as a disk that loses power may leave any part of a write. That
costs writing up to 32 KiB for a small batch, and needs nothing of the disk that it might not keep.
"""

import struct
import zlib
from collections.abc import Collection, Iterable, Iterator

from p2ptrain.errors import CheckpointError, ConfigError, PeerError
from p2ptrain.ports import Disk
from p2ptrain.strategies.spsa.arithmetic.noise import Evaluation
from p2ptrain.strategies.spsa.ledger.batch import SIZE_BYTES_MAX, Batch, decode, encode

SEGMENT_BYTES = 1 << 15
_MAGIC = b"p2ptrain onebyte log 1\n"
_FRAME = struct.Struct("<II")
_PREFIX, _SUFFIX, _DRAFT = "onebyte-", ".log", ".draft"


class Log:
    """One run's batches: in memory all of them, on the disk those before the last `flush`."""

    def __init__(self, disk: Disk, identity: bytes) -> None:
        self._disk, self._head = disk, _MAGIC + identity
        self.batches: dict[bytes, Batch] = {}
        """By their encoding, in the order in which they came."""
        self.closed = 0
        """Rounds before this take no new bytes; the highest that was kept."""
        self.bytes_on_disk = 0
        self._segment = 1
        self._frames: list[bytes] = []  # of the present segment
        self._dirty = False

    def load(self) -> list[str]:
        """Read what is there; what was damaged, in words. Raises `CheckpointError` for a log of another run."""
        notes: list[str] = []
        names = self._names()
        for name in self._disk.names():
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX + _DRAFT):
                self._disk.remove(name)
        for name in names:
            content = self._disk.read(name)
            records, whole = read_segment(content, self._head, f"{self._disk}{name}")
            for record, batch in records.items():
                if batch is None:
                    self.closed = max(self.closed, int.from_bytes(record, "little"))
                else:
                    self.batches[record] = batch
            self.bytes_on_disk += len(content)
            if not whole:
                notes.append(f"{self._disk}{name} is damaged after {len(records)} batches; peers have the others")
                self._write(name, [_frame(record) for record in records])
        self._segment = _number(names[-1]) + 1 if names else 1
        return notes

    def add(self, batch: Batch) -> None:
        """Keep a batch; on the disk with the next `flush`."""
        record = encode(batch)
        if record not in self.batches:
            self.batches[record] = batch
            self._frames.append(_frame(record))
            self._dirty = True

    def close(self, round_number: int) -> None:
        """Keep in mind that the rounds before this one are closed."""
        if round_number > self.closed:
            self.closed = round_number
            self._frames.append(_frame(_closing(round_number)))
            self._dirty = True

    def covered_by(self, batch: Batch) -> list[bytes]:
        """Batches that say nothing that this larger one does not."""
        first, last, entries = batch.runs[0].round, batch.runs[-1].round, set(batch.entries())
        return [
            record
            for record, each in self.batches.items()
            if each.slot == batch.slot
            and first <= each.runs[0].round
            and each.runs[-1].round <= last
            and each.count < batch.count
            and entries.issuperset(each.entries())
        ]

    def flush(self) -> None:
        """Make everything durable that was added before; may run on another thread than `add`. Raises `ConfigError` if
        the disk does not take it; then try again."""
        if not self._dirty:
            return
        self._dirty = False  # before its content is looked at: what comes meanwhile makes it so again
        frames = self._frames[:]
        try:
            self._write(_name(self._segment), frames)
        except ConfigError:
            self._dirty = True
            raise
        if sum(map(len, frames)) >= SEGMENT_BYTES:
            self._segment += 1
            del self._frames[: len(frames)]

    def fold(self, without: Collection[bytes] = ()) -> int:
        """Write everything anew, but for these batches and what others cover; how many batches went."""
        kept = set(needed(batch for record, batch in self.batches.items() if record not in without))
        gone = [record for record, batch in self.batches.items() if batch not in kept]
        old = self._names()
        self._next()
        self.batches = {record: batch for record, batch in self.batches.items() if batch in kept}
        for record in [_closing(self.closed), *self.batches]:
            self._frames.append(_frame(record))
            if sum(map(len, self._frames)) >= SEGMENT_BYTES:
                self._write(_name(self._segment), self._frames)
                self._next()
        self._dirty = bool(self._frames)
        self.flush()
        for name in old:  # a crash before this leaves batches twice
            self.bytes_on_disk -= len(self._disk.read(name))
            self._disk.remove(name)
        return len(gone)

    def _write(self, name: str, frames: list[bytes]) -> None:
        content = self._head + b"".join(frames)
        before = len(self._disk.read(name)) if name in self._disk.names() else 0
        self._disk.write(name + _DRAFT, content)
        self._disk.rename(name + _DRAFT, name)
        self.bytes_on_disk += len(content) - before

    def _next(self) -> None:
        self._segment += 1
        self._frames, self._dirty = [], False

    def _names(self) -> list[str]:
        found = [name for name in self._disk.names() if name.startswith(_PREFIX) and name.endswith(_SUFFIX)]
        return sorted((name for name in found if _digits(name).isdecimal()), key=_number)


def read_segment(content: bytes, head: bytes, where: str) -> tuple[dict[bytes, Batch | None], bool]:
    """What is whole at the beginning of a segment, and whether that is all of it. None: a closing."""
    if not content.startswith(head):
        if content.startswith(_MAGIC) and len(content) >= len(head):
            raise CheckpointError(f"{where} is the log of another run or model: move it away to start anew")
        return {}, False
    found: dict[bytes, Batch | None] = {}
    at = len(head)
    while at < len(content):
        frame = content[at : at + _FRAME.size]
        if len(frame) < _FRAME.size:
            return found, False
        length, checksum = _FRAME.unpack(frame)
        record = content[at + _FRAME.size : at + _FRAME.size + length]
        if length > SIZE_BYTES_MAX or len(record) < length or zlib.crc32(record) != checksum:
            return found, False
        try:
            found[record] = None if length == 4 else decode(record)
        except PeerError:
            return found, False
        at += _FRAME.size + length
    return found, True


def needed(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches of which some byte is in no larger one: a peer signs much of what it said again, to save signatures."""
    by_slot: dict[int, list[Batch]] = {}
    for batch in batches:
        by_slot.setdefault(batch.slot, []).append(batch)
    for mine in by_slot.values():
        covered: set[tuple[Evaluation, int]] = set()
        for batch in sorted(mine, key=lambda each: -each.count):
            entries = set(batch.entries())
            if not entries <= covered:
                covered |= entries
                yield batch


def _frame(record: bytes) -> bytes:
    return _FRAME.pack(len(record), zlib.crc32(record)) + record


def _closing(round_number: int) -> bytes:
    return round_number.to_bytes(4, "little")


def _name(number: int) -> str:
    return f"{_PREFIX}{number:06d}{_SUFFIX}"


def _digits(name: str) -> str:
    return name.removeprefix(_PREFIX).removesuffix(_SUFFIX)


def _number(name: str) -> int:
    return int(_digits(name))
