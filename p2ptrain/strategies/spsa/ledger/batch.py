"""Bytes of one peer, signed together: what travels and what is kept. Its encoding is canonical, and holds

varint      slot
varint      number of groups
per group   varints: rounds between it and the group before, first sample, samples per round, number of rounds, scale:
            2|x| for an exponent x >= 0, 2|x| - 1 below
int8...     the bytes, in order of (round, sample)
64 bytes    Ed25519 signature over a prefix, the run's identity and all of the above
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from p2ptrain.errors import PeerError
from p2ptrain.ports import Bytes
from p2ptrain.strategies.spsa.arithmetic.noise import Evaluation
from p2ptrain.strategies.spsa.arithmetic.rule import EXPONENT_MAX, codes_of

SIZE_BYTES_MAX = 1 << 15
BYTES_MAX = 1 << 14
SIGNATURE_BYTES = 64
_PREFIX = b"p2ptrain-onebyte-batch-v2"

Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) -> whether it is the key's."""


@dataclass(frozen=True)
class Run:
    """What one peer measured in one round: bytes as int8 of one scale, for samples that follow each other."""

    round: int
    first_sample: int
    content: bytes
    exponent: int
    """The scale is two to this: what a slope must be for a byte of 1."""

    def codes(self) -> NDArray[np.int16]:
        """(samples,) each byte with its scale."""
        return codes_of(self.content, self.exponent)

    def entries(self) -> Iterator[tuple[int, int]]:
        """(sample, code)."""
        yield from enumerate(self.codes().tolist(), self.first_sample)


@dataclass(frozen=True)
class Batch:
    """Some of a peer's bytes, at least one, one run per round in their order. Unsigned until `sign`."""

    slot: int
    runs: tuple[Run, ...]
    signature: bytes = b""

    def touches(self, first: int, last: int) -> bool:
        """Whether it says anything of rounds [first, last)."""
        return any(first <= run.round < last for run in self.runs)

    @property
    def count(self) -> int:
        return sum(len(run.content) for run in self.runs)

    def entries(self) -> Iterator[tuple[Evaluation, int]]:
        for run in self.runs:
            for sample, code in run.entries():
                yield Evaluation(run.round, self.slot, sample), code

    def sign(self, identity: bytes, sign: Sign) -> "Batch":
        return Batch(self.slot, self.runs, sign(_PREFIX + identity + encode(self)))

    def check_signature(self, identity: bytes, public_key: bytes, verify: Verify) -> None:
        """Raises `PeerError("bad-signature")`, also for a batch of another run."""
        body = encode(Batch(self.slot, self.runs))
        if not verify(public_key, _PREFIX + identity + body, self.signature):
            raise PeerError("bad-signature", f"bytes of slot {self.slot} are not signed by its key for this run")


def encode(batch: Batch) -> bytes:
    out = bytearray(_varint(batch.slot))
    groups = _groups(batch.runs)
    out += _varint(len(groups))
    end = 0
    for group in groups:
        first = group[0]
        scale = 2 * abs(first.exponent) - (first.exponent < 0)
        for number in (first.round - end, first.first_sample, len(first.content), len(group), scale):
            out += _varint(number)
        end = group[-1].round + 1
    for run in batch.runs:
        out += run.content
    return bytes(out + batch.signature)


def decode(data: Bytes, *, signature_bytes: int = SIGNATURE_BYTES, bytes_max: int = BYTES_MAX) -> Batch:
    """Raises `PeerError`: `malformed`, `oversized`. The signature is not checked."""
    data = bytes(data)
    if len(data) > max(2 * bytes_max, SIZE_BYTES_MAX):
        raise PeerError("oversized", f"batch of {len(data)} bytes")
    reader = _Reader(data[: len(data) - signature_bytes] if len(data) >= signature_bytes else b"")
    slot = reader.varint()
    shapes = [tuple(reader.varint() for _ in range(5)) for _ in range(reader.bounded(bytes_max))]
    if sum(samples * rounds for _, _, samples, rounds, _ in shapes) > bytes_max:
        raise PeerError("oversized", f"batch of more than {bytes_max} evaluations")
    runs: list[Run] = []
    end = 0
    for gap, first_sample, samples, rounds, scale in shapes:
        if scale > 2 * EXPONENT_MAX:
            raise PeerError("malformed", f"batch with a scale beyond 2^{EXPONENT_MAX}")
        if not samples or first_sample + samples > 1 << 32 or end + gap + rounds > 1 << 32:
            raise PeerError("malformed", "batch with a group that is empty or out of bounds")
        for number in range(end + gap, end + gap + rounds):
            runs.append(Run(number, first_sample, reader.take(samples), -(scale + 1 >> 1) if scale & 1 else scale >> 1))
        end += gap + rounds
    batch = Batch(slot, tuple(runs), data[len(data) - signature_bytes :])
    if not runs or encode(batch) != data:
        raise PeerError("malformed", "batch is not in its canonical encoding")
    return batch


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Rounds that follow each other and have the same samples and scale."""
    groups = [[run] for run in runs[:1]]
    for before, run in pairwise(runs):
        if run.round == before.round + 1 and _shape(run) == _shape(before):
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def _shape(run: Run) -> tuple[int, int, int]:
    return run.first_sample, len(run.content), run.exponent


def _varint(number: int) -> bytes:
    """Seven bits a byte, lowest first, as in protobuf."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Reader:
    """Takes a batch apart; whatever is missing or too large is a `PeerError`."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def varint(self) -> int:
        number = 0
        for shift in range(0, 35, 7):
            (byte,) = self._bytes(1)
            number |= (byte & 127) << shift
            if byte < 128:
                break
        if number >= 1 << 32:
            raise PeerError("malformed", "batch with a number beyond 32 bits")
        return number

    def bounded(self, largest: int) -> int:
        number = self.varint()
        if number > largest:
            raise PeerError("malformed", f"batch of {number} groups")
        return number

    def take(self, count: int) -> bytes:
        """So many bytes of evaluations: -128 is none."""
        found = self._bytes(count)
        if 0x80 in found:
            raise PeerError("malformed", "batch with the byte -128")
        return found

    def _bytes(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise PeerError("malformed", "batch is cut short")
        self._at += count
        return found
