"""The master in one file: for the next start of this peer, and for one that joins. Bytes that came since are applied on
top, so that it is nothing but a short cut.

    magic, the run's identity
    uint64     d
    uint32     number of batches, and before each its length as uint32: the set that is applied, unsigned
    int64 (d)  the master, little-endian
    32 bytes   SHA-256 of all of the above
"""

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from p2ptrain.errors import CheckpointError, PeerError
from p2ptrain.ports import Disk
from p2ptrain.strategies.spsa.arithmetic.lattice import Lattice
from p2ptrain.strategies.spsa.arithmetic.noise import Key
from p2ptrain.strategies.spsa.arithmetic.rule import Rule
from p2ptrain.strategies.spsa.ledger.batch import decode, encode
from p2ptrain.strategies.spsa.ledger.book import Book, Page, batches_of
from p2ptrain.strategies.spsa.ledger.master import Master

KEPT = 2
_MAGIC = b"p2ptrain onebyte master 1\n"
_PREFIX, _SUFFIX, _DRAFT = "onebyte-", ".master", ".draft"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Integers, and the set that is in them."""

    values: Tensor
    """(d,) int64 on the CPU."""
    pages: dict[int, Page]

    def lattice(self, key: Key, device: torch.device) -> Lattice:
        return Lattice(key, self.values.to(device))


def pack(master: Master, before: int | None = None) -> bytes:
    """A settled master as a file; with the bytes of rounds `before` one only, the same for all that have these."""
    lattice = master.lattice if before is None else master.before(before)
    pages = master.pages if before is None else master.pages_before(before)
    batches = [encode(batch) for batch in batches_of(pages, master.book.rule.span)]
    parts = [_MAGIC, master.book.identity, struct.pack("<QI", lattice.values.numel(), len(batches))]
    for batch in batches:
        parts += [struct.pack("<I", len(batch)), batch]
    parts.append(lattice.values.cpu().numpy().astype("<i8", copy=False).tobytes())
    content = b"".join(parts)
    return content + hashlib.sha256(content).digest()


def unpack(content: bytes, rule: Rule, identity: bytes, size: int) -> Snapshot:
    """Raises `CheckpointError` for what is damaged or of another run. Of a stranger's, nothing is proven but the form:
    compare its digest with other peers'."""
    body, digest = content[:-32], content[-32:]
    if hashlib.sha256(body).digest() != digest or not body.startswith(_MAGIC):
        raise CheckpointError("damaged: its content does not match its SHA-256")
    if not body.startswith(_MAGIC + identity):
        raise CheckpointError("of another run, rule or model")
    try:
        at = len(_MAGIC + identity)
        found_size, count = struct.unpack_from("<QI", body, at)
        at += struct.calcsize("<QI")
        book = Book(rule, identity)
        for _ in range(count):
            (length,) = struct.unpack_from("<I", body, at)
            book.put(decode(body[at + 4 : at + 4 + length], signature_bytes=0, bytes_max=length))
            at += 4 + length
    except (struct.error, PeerError, IndexError) as error:
        raise CheckpointError(f"damaged: {error}") from None
    if found_size != size or len(body) - at != 8 * size:
        raise CheckpointError(f"of {found_size} parameters in {len(body) - at} bytes, not {size}")
    values = torch.from_numpy(np.frombuffer(body, "<i8", size, at).astype(np.int64))
    return Snapshot(values, book.pages)


def save(disk: Disk, content: bytes) -> str:
    """Write a packed master durably, then drop all but the newest two; its name."""
    existing = _names(disk)
    name = f"{_PREFIX}{_number(existing[0]) + 1 if existing else 1:06d}{_SUFFIX}"
    disk.write(name + _DRAFT, content)
    disk.rename(name + _DRAFT, name)
    for old in existing[KEPT - 1 :]:
        disk.remove(old)
    return name


def latest(disk: Disk, rule: Rule, identity: bytes, size: int) -> tuple[Snapshot | None, list[str]]:
    """The newest that is whole and of this run, and why each newer one was not."""
    notes: list[str] = []
    for name in disk.names():
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX + _DRAFT):
            disk.remove(name)
    for name in _names(disk):
        try:
            return unpack(disk.read(name), rule, identity, size), notes
        except CheckpointError as error:
            notes.append(f"{disk}{name}: {error}")
    return None, notes


def _names(disk: Disk) -> list[str]:
    """Newest first."""
    found = [name for name in disk.names() if name.startswith(_PREFIX) and name.endswith(_SUFFIX)]
    return sorted((name for name in found if _digits(name).isdecimal()), key=_number, reverse=True)


def _digits(name: str) -> str:
    return name.removeprefix(_PREFIX).removesuffix(_SUFFIX)


def _number(name: str) -> int:
    return int(_digits(name))
