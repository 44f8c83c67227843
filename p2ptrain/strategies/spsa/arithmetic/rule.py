"""What the peers of a run agree on, and how bytes become integer steps. All of it is integer arithmetic, or floats that
IEEE 754 rounds the same everywhere, as a logarithm or a cosine may differ in its last bit from machine to machine.

A byte is said together with its scale, a power of two, so that it means the same to everyone, whatever else they have
heard. Which scale a peer takes, and how large a slope at most counts, follows from the bytes of earlier spans of
rounds: not of the last, so that few are still under way. Should one of them come late after all, and move that bound,
then the master is corrected for it (`ledger/master.py`).
"""

import hashlib
import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from p2ptrain.strategies.spsa.arithmetic.lattice import FRACTION_BITS
from p2ptrain.strategies.spsa.arithmetic.noise import Key

VERSION = 2
BYTE_MAX = 127
USUAL = 11
"""The scale is such that the swarm's median byte lies from this up to twice this. So a slope counts as at most six to
twelve times the median: that is what a lie is clipped to, while of honest slopes few are that far out, even though the
scale follows a few dozen rounds late."""
EXPONENT_MAX = 40
STEP_MAX = 1 << 40
"""Per unit of a byte: one unit of weight."""
_RATE_BITS = 64


class Rule(BaseModel):
    """How a run goes from bytes to weights. Part of what its noise is derived from: another rule is another run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(default=1e-3, gt=0, le=1e3)
    """The weights move by `lr` times the mean over a round's evaluations of slope * noise."""
    final_lr: float | None = Field(default=None, ge=0, le=1e3)
    """When given, the rate goes there linearly over `rounds`."""
    rounds: int = Field(default=20_000, gt=0, lt=1 << 32)
    eps: float = Field(default=1e-3, gt=0, le=1)
    """How far to either side the loss is measured."""
    span: int = Field(default=16, gt=0, le=1024)
    """Rounds that share a bound on slopes."""
    samples_max: int = Field(default=16, gt=0, le=256)
    """Evaluations of one peer that count in one round; it bounds the share of a peer that floods."""
    exponent: int = Field(default=-6, ge=-EXPONENT_MAX, le=EXPONENT_MAX)
    """The scale of the first two spans is 2^exponent: what a slope must be for a byte of 1. A slope in them counts as
    at most 127 times this."""
    audit_every: int = Field(default=256, gt=0)
    """Rounds between seals of the integers; no batch crosses a multiple of it."""
    horizon: int = Field(default=4096, gt=0)
    """A byte that comes so many rounds late counts no more."""

    def identify(self, run: str, fingerprint: bytes, start: bytes) -> bytes:
        """32 bytes that peers share exactly when their bytes mean the same thing: rule, run, the model's layout and
        the digest of its first integers."""
        text = f"p2ptrain-onebyte-v{VERSION}\n{run}\n{self.model_dump_json()}\n".encode()
        return hashlib.sha256(text + hashlib.sha256(fingerprint).digest() + start).digest()

    def step_size(self, round_number: int, exponent: int, count: int) -> int:
        """Lattice units per unit of a byte: c_t = lr_t 2^exponent / count, rounded to the nearest."""
        numerator, denominator = self._rate(round_number), count
        shift = exponent + FRACTION_BITS - _RATE_BITS
        if shift >= 0:
            numerator <<= shift
        else:
            denominator <<= -shift
        return min((2 * numerator + denominator) // (2 * denominator), STEP_MAX)

    def _rate(self, round_number: int) -> int:
        start = _fixed(self.lr)
        end = start if self.final_lr is None else _fixed(self.final_lr)
        return start + (end - start) * min(round_number, self.rounds) // self.rounds


def key_of(identity: bytes) -> Key:
    """The key of the noise, from `Rule.identify`."""
    return int.from_bytes(identity[:4], "little"), int.from_bytes(identity[4:8], "little")


def quantise(slope: float, exponent: int) -> int:
    """The byte for a slope: the nearest integer to slope / 2^exponent, ties to even, clipped to +-127.

    Raises `ValueError` for NaN, which no byte can say."""
    if math.isnan(slope):
        raise ValueError("the slope is NaN: both losses are infinite, or one is NaN")
    return round(max(-BYTE_MAX, min(BYTE_MAX, slope * 2.0**-exponent)))


def codes_of(content: bytes, exponent: int) -> NDArray[np.int16]:
    """Each byte with its scale in 16 bits: 256 * exponent + byte."""
    return np.frombuffer(content, np.int8).astype(np.int16) + np.int16(256 * exponent)


def parts_of(codes: NDArray[np.int16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The bytes of codes, and the exponents of their scales."""
    exponents = (codes.astype(np.int64) + 128) >> 8
    return codes - 256 * exponents, exponents


def bounded(codes: NDArray[np.int16], bound: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bytes and exponents for slopes of which none counts as more than 127 * 2^bound."""
    said, exponents = parts_of(codes)
    excess = np.clip(exponents - bound, 0, 7)  # seven bits more are beyond the bound for any byte but 0
    return np.clip(said << excess, -BYTE_MAX, BYTE_MAX), np.minimum(exponents, bound)


def sizes_of(codes: NDArray[np.int16]) -> NDArray[np.float64]:
    """How large the slopes are that codes stand for, exactly. A byte of 127 says only that the slope is larger than its
    scale can tell, and counts as if one 16 times larger were right; one of 0 counts as 1."""
    said, exponents = parts_of(codes)
    said = np.abs(said)
    said[said == BYTE_MAX] = USUAL << 4
    return np.ldexp(np.maximum(said, 1).astype(np.float64), exponents)


def exponent_for(median: float) -> int:
    """The scale at which a slope of the median size is a byte from `USUAL` up to twice this: two to this."""
    return max(-EXPONENT_MAX, min(EXPONENT_MAX, math.frexp(median / (2 * USUAL))[1]))


def low_median(numbers: Iterable[float]) -> float:
    """The middle one, or the lower of the middle two."""
    ordered = sorted(numbers)
    return ordered[(len(ordered) - 1) // 2]


def _fixed(rate: float) -> int:
    return round(Fraction(rate) * (1 << _RATE_BITS))
