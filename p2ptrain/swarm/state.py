"""How a newcomer gets the swarm's weights: hashed chunks of frozen snapshots, from several donors at once.

In gossip the donors' replicas differ a little, so a vector put together from several is, coordinate by coordinate,
one of theirs: as close to the swarm's mean as they are. A donor that fails is replaced, and what it gave already
stays.
"""

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2ptrain import chaos
from p2ptrain.errors import PeerBusy, PeerError
from p2ptrain.messages import parse
from p2ptrain.pace import Pace
from p2ptrain.ports import Bytes, PeerId, Transport
from p2ptrain.training.replica import Replica, as_bytes
from p2ptrain.waiting import now
from p2ptrain.wire.state_pb2 import FetchReply, FetchRequest, FreezeRequest, Manifest

FREEZE = "/p2ptrain.v1.State/Freeze"
FETCH = "/p2ptrain.v1.State/Fetch"

CHUNK_SIZE = 1 << 18
MAX_DONORS = 3
FREEZE_TIMEOUT_S = 20.0
FINAL_WAIT_S = 10.0
"""How long a donor lets a caller wait that has begun to merge before the donor itself has."""
FROZEN_FOR_S = 2.0
"""How long a snapshot is handed out to further newcomers before a newer one is made."""
KEPT_FOR_S = 120.0
"""How long a snapshot that nobody fetches from stays in memory."""
SERVED_S = 2.0
"""A newcomer that has asked for nothing for so long has all, or has gone elsewhere."""
MAX_NEWCOMERS = 4
"""Snapshots served at the same time; further newcomers are sent to other donors."""


@dataclass
class _Frozen:
    manifest: Manifest
    vector: Tensor
    made: float
    asked: float
    newcomers: dict[PeerId, float] = field(default_factory=dict)


class StateServer:
    """The donor's side. Holds one frozen snapshot at most, and only while someone fetches it."""

    def __init__(
        self,
        transport: Transport,
        replica: Replica,
        run: str,
        rng: random.Random,
        step: Callable[[], int],
        ready: Callable[[], bool],
    ) -> None:
        self._replica, self._run, self._rng, self._step, self._ready = replica, run, rng, step, ready
        self._frozen: _Frozen | None = None
        self._final = asyncio.Event()
        self._freezing = asyncio.Lock()
        transport.serve(FREEZE, self._freeze)
        transport.serve(FETCH, self._fetch)

    async def finish(self) -> Tensor:
        """Freeze the replica for good: from now on everyone gets this very vector, (d,) float32."""
        async with self._freezing:
            self._frozen = await self._take()
            self._final.set()
        return self._frozen.vector

    async def expire(self) -> None:
        """Runs beside the node: lets go of a snapshot that nobody fetches any more."""
        while True:
            await asyncio.sleep(KEPT_FOR_S / 4)
            if self._frozen and not self._final.is_set() and now() - self._frozen.asked > KEPT_FOR_S:
                self._frozen = None

    async def _freeze(self, peer: PeerId, request: Bytes) -> bytes:
        asked = parse(FreezeRequest(), request)
        if asked.run != self._run:
            raise PeerError("wrong-run", f"{asked.run[:63]!r}, here {self._run!r}")
        if asked.model != self._replica.fingerprint:
            raise PeerError("wrong-model", "another layout of parameters")
        if not self._ready():
            raise PeerError("not-ready", "no weights yet")
        if asked.final:
            await self._wait_until_final()
        async with self._freezing:
            frozen = self._frozen
            if frozen is None or (
                not self._final.is_set() and now() - frozen.made > FROZEN_FOR_S and not self._served(frozen)
            ):
                self._frozen = frozen = await self._take()
            others = self._served(frozen) - {peer}
            if not self._final.is_set() and len(others) >= MAX_NEWCOMERS:
                raise PeerBusy
            frozen.newcomers[peer] = frozen.asked = now()
        return frozen.manifest.SerializeToString()

    async def _wait_until_final(self) -> None:
        try:
            async with asyncio.timeout(FINAL_WAIT_S):
                await self._final.wait()
        except TimeoutError:
            raise PeerError("not-ready", "not merging yet") from None

    async def _fetch(self, peer: PeerId, request: Bytes) -> bytes:
        asked = parse(FetchRequest(), request)
        frozen = self._frozen
        if frozen is None or asked.snapshot != frozen.manifest.snapshot:
            raise PeerError("expired", "that snapshot is gone; ask for a new one")
        if asked.index >= len(frozen.manifest.hashes):
            raise PeerError("malformed", f"chunk {asked.index} of {len(frozen.manifest.hashes)}")
        await chaos.point("serving a chunk")
        frozen.newcomers[peer] = frozen.asked = now()
        start = asked.index * CHUNK_SIZE
        return FetchReply(payload=bytes(as_bytes(frozen.vector[start : start + CHUNK_SIZE]))).SerializeToString()

    async def _take(self) -> _Frozen:
        vector = self._replica.snapshot()
        hashes = []
        for start in range(0, vector.numel(), CHUNK_SIZE):
            hashes.append(hashlib.sha256(as_bytes(vector[start : start + CHUNK_SIZE])).digest())
            await asyncio.sleep(0)  # a large model takes a while, and heartbeats must go on
        manifest = Manifest(
            snapshot=self._rng.randbytes(16),
            step=self._step(),
            size=vector.numel(),
            chunk_size=CHUNK_SIZE,
            hashes=hashes,
        )
        return _Frozen(manifest, vector, now(), now())

    def _served(self, frozen: _Frozen) -> set[PeerId]:
        """Who asked for it a moment ago, and would have to start again."""
        return {peer for peer, asked in frozen.newcomers.items() if now() - asked < SERVED_S}


@dataclass
class Download:
    """A vector on its way here."""

    vector: Tensor
    step: int = 0
    bytes_received: int = 0
    donors: set[PeerId] = field(default_factory=set)


async def download(
    transport: Transport, donors: Sequence[PeerId], run: str, replica: Replica, pace: Pace, final: bool = False
) -> Download:
    """A vector of the swarm, from the first `MAX_DONORS` donors that serve one, the others in reserve.

    With `final`, the vectors that the donors bring to the merge at the end of the run.

    Raises `PeerError("no-donor")` when all donors failed before every chunk was there."""
    result = Download(torch.empty(replica.size, dtype=torch.float32))
    chunks = _Chunks(-(-replica.size // CHUNK_SIZE))
    reserve = deque(donors)
    reasons: list[str] = []
    request = FreezeRequest(run=run, model=replica.fingerprint, final=final).SerializeToString()

    async def fetch_from_one_after_another() -> None:
        while chunks.left and reserve:
            donor = reserve.popleft()
            try:
                await _fetch_from(transport, donor, request, replica.size, pace, chunks, result)
            except PeerError as error:
                reasons.append(f"{donor[:8]} {error}")

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(fetch_from_one_after_another()) for _ in range(min(MAX_DONORS, len(reserve)))]
        chunks.on_last = lambda: [worker.cancel() for worker in workers]
    if chunks.left:
        raise PeerError("no-donor", "; ".join(reasons) or "nobody to ask")
    return result


class _Chunks:
    """Which chunks are still to be had: each is handed out to one donor at a time, and comes back if that fails."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.on_last: Callable[[], object] = lambda: None
        """There is nothing left to wait for, on whatever donor."""
        self._free = deque(range(count))
        self._change = asyncio.Event()

    async def take(self) -> int:
        """The next one; waits while all that is missing is on its way from other donors."""
        while not self._free:
            self._change.clear()
            await self._change.wait()
        return self._free.popleft()

    def give_back(self, index: int) -> None:
        self._free.append(index)
        self._change.set()

    def done(self) -> None:
        self.left -= 1
        if not self.left:
            self.on_last()


async def _fetch_from(
    transport: Transport,
    donor: PeerId,
    freeze: bytes,
    size: int,
    pace: Pace,
    chunks: _Chunks,
    result: Download,
) -> None:
    """Take missing chunks until none is left; a chunk that fails goes back to the others."""
    manifest = parse(Manifest(), await transport.call(donor, FREEZE, freeze, FREEZE_TIMEOUT_S))
    _check(manifest, size)
    loop = asyncio.get_running_loop()
    while chunks.left:
        index = await chunks.take()
        try:
            started = loop.time()
            fetch = FetchRequest(snapshot=manifest.snapshot, index=index).SerializeToString()
            reply = await transport.call(donor, FETCH, fetch, pace.patience(donor))
            pace.observe(donor, loop.time() - started)
            where = slice(index * CHUNK_SIZE, min((index + 1) * CHUNK_SIZE, size))
            result.vector[where] = _chunk(parse(FetchReply(), reply).payload, manifest.hashes[index], where)
        except BaseException:
            chunks.give_back(index)
            raise
        result.bytes_received += len(reply)
        result.donors.add(donor)
        result.step = max(result.step, manifest.step)
        chunks.done()
        await chaos.point("chunk fetched")


def _check(manifest: Manifest, size: int) -> None:
    if manifest.size != size or manifest.chunk_size != CHUNK_SIZE or len(manifest.snapshot) != 16:
        raise PeerError("malformed", f"manifest of {manifest.size} elements, wanted {size}")
    if len(manifest.hashes) != -(-size // CHUNK_SIZE) or any(len(digest) != 32 for digest in manifest.hashes):
        raise PeerError("malformed", f"manifest with {len(manifest.hashes)} hashes")


def _chunk(payload: bytes, digest: bytes, where: slice) -> Tensor:
    if len(payload) != 4 * (where.stop - where.start):
        raise PeerError("malformed", f"chunk of {len(payload)} bytes")
    if hashlib.sha256(payload).digest() != digest:
        raise PeerError("wrong-hash", "a chunk is not what its manifest says")
    chunk = torch.frombuffer(bytearray(payload), dtype=torch.float32)
    if not torch.isfinite(chunk).all():
        raise PeerError("not-finite", "NaN or Inf in a state chunk")
    return chunk
