"""A model as one flat vector that one thread trains while another exchanges it.

Three float32 vectors of the model's size exist, and no more:

    flat       the parameters and floating-point buffers themselves, owned by the compute thread
    published  the snapshot that exchanges read; immutable while leased
    spare      where an exchange writes the mixed vector

An exchange leases `published` and writes `own + correction` into `spare`. On commit, if no training step ended
meanwhile, the two swap places, and the next step boundary takes the result over; otherwise the difference
`spare - published` is the correction that the next step boundary adds. So the compute thread never waits, local
progress made during a slow exchange is kept, and any number of exchanges fits between two steps.
"""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from p2ptrain.errors import PeerBusy


@dataclass(frozen=True, eq=False)
class Lease:
    """One exchange's hold on what is shared; all (d,) float32 on the CPU."""

    own: Tensor
    """What the peer is sent; only read."""
    out: Tensor
    """Where `base` plus the correction is written."""
    base: Tensor
    peer: str


class Shared(Protocol):
    """A vector that swaps mix. All but `size` and `fingerprint` belong to the event loop."""

    @property
    def size(self) -> int:
        """Number of elements."""
        ...

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that two nodes share exactly when their vectors mean the same thing."""
        ...

    def snapshot(self) -> Tensor:
        """A copy of what a peer would be sent now, (d,) float32 on the CPU."""
        ...

    def account(self, peer: str) -> bytes:
        """What both of us hold alike if all our exchanges with `peer` counted on both sides or on neither: 32 bytes, or
        none. Told to the peer in each exchange."""
        ...

    @property
    def is_free(self) -> bool:
        """Whether this looks like a moment for an exchange: it costs nothing to ask."""
        ...

    def lease(self, peer: str) -> Lease:
        """Start an exchange with `peer`. Raises `PeerBusy` when this is no moment for one."""
        ...

    def agree(self, lease: Lease, account: bytes) -> None:
        """The peer has told its account; nothing was sent yet, and `lease.own` may still change."""
        ...

    def commit(self, lease: Lease, exchange: bytes) -> None:
        """The exchange counts: `lease.out - lease.base` is to be added."""
        ...

    def release(self, lease: Lease) -> None:
        """The exchange is over; unless it was committed, nothing changes."""
        ...


class Companion(Protocol):
    """A second vector that goes along with the model, for methods that need one. Belongs to the compute thread."""

    def corrected(self, flat: Tensor, by: Tensor, num: int) -> None:
        """`by`, (d,), was added to the model, (d,): what `num` exchanges came to since the last time."""
        ...

    def before_step(self, flat: Tensor) -> None:
        """The optimizer is about to update the model, (d,), which may be changed in place."""
        ...

    def reset(self, flat: Tensor) -> None:
        """The model was replaced."""
        ...


class Replica:
    """One node's copy of the model.

    `absorb`, `publish` and `load` belong to the compute thread; `lease`, `commit`, `release` to the event loop.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu") -> None:
        self.module = module.to(device)
        self.device = torch.device(device)
        self.flat, self.num_parameters = _flatten(self.module)
        self.fingerprint = _fingerprint(self.module)
        pinned = self.device.type == "cuda"
        self._published = torch.empty(self.flat.numel(), dtype=torch.float32, pin_memory=pinned)
        self._spare = torch.empty_like(self._published, pin_memory=pinned)
        self._published.copy_(self.flat)
        self._base_buffers = self.flat[self.num_parameters :].clone()
        self.companion: Companion | None = None
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._behind = False  # `flat` holds local steps that the snapshot does not
        self._ahead = False  # the snapshot holds corrections that `flat` does not
        self._pending = False  # `spare - published` waits to be added to `flat`
        self._num_exchanges = 0  # whose corrections `flat` does not hold
        self._stale = False  # the snapshot lacks corrections that `flat` has: mixing with it would apply them again

    @property
    def size(self) -> int:
        """Number of elements exchanged."""
        return self.flat.numel()

    def snapshot(self) -> Tensor:
        """A copy of the latest published vector, (d,) float32 on the CPU."""
        with self._lock:
            return self._published.clone()

    def digest(self) -> str:
        """SHA-256 of the published vector."""
        with self._lock:
            return hashlib.sha256(as_bytes(self._published)).hexdigest()

    def account(self, peer: str) -> bytes:
        """Nothing is kept by peer: replicas that came apart come together again by themselves."""
        return b""

    def agree(self, lease: Lease, account: bytes) -> None: ...

    @property
    def is_free(self) -> bool:
        return self._lease is None and not self._pending and not self._stale

    def lease(self, peer: str = "") -> Lease:
        """Start an exchange. Raises `PeerBusy` while another one runs or the compute thread is copying."""
        if not self._lock.acquire(blocking=False):
            raise PeerBusy
        try:
            if not self.is_free:
                raise PeerBusy
            self._lease = Lease(self._published, self._spare, base=self._published, peer=peer)
            return self._lease
        finally:
            self._lock.release()

    def commit(self, lease: Lease, exchange: bytes = b"") -> None:
        """The exchange ended well: `lease.out - lease.own` enters the model at the next step boundary."""
        with self._lock:
            assert lease is self._lease
            self._lease = None
            self._num_exchanges += 1
            if self._behind:
                self._pending = True
            else:
                self._published, self._spare = self._spare, self._published
                self._ahead = True

    def release(self, lease: Lease) -> None:
        """The exchange is over; unless it was committed, nothing changes."""
        with self._lock:
            if lease is self._lease:
                self._lease = None

    def absorb(self) -> None:
        """Take committed corrections into `flat`: after `backward`, before `optimizer.step` (as AD-PSGD does)."""
        with self._lock:
            self._take_in()
            if self.companion is not None:
                self.companion.before_step(self.flat)
            self._behind = True

    def _take_in(self) -> None:
        num, self._num_exchanges = self._num_exchanges, 0
        if self.companion is None or not (self._ahead or self._pending):
            return self._add_corrections()
        before = self.flat.clone()
        self._add_corrections()
        self.companion.corrected(self.flat, self.flat - before, num)

    def _add_corrections(self) -> None:
        if self._ahead:
            parameters = self.num_parameters
            self.flat[:parameters].copy_(self._published[:parameters], non_blocking=True)
            moved = self._published[parameters:].to(self.device) - self._base_buffers
            self.flat[parameters:].add_(moved)
            self._ahead = False
        if self._pending:
            # The snapshot is of no further use, so the correction is computed in the spare's place.
            self._spare.sub_(self._published)
            self.flat.add_(self._spare.to(self.device))
            self._pending = False
            self._stale = True

    def publish(self) -> None:
        """Make the model's current values the snapshot, unless an exchange holds it: after `optimizer.step`."""
        with self._lock:
            if self._lease is not None or self._pending:
                return
            assert not self._ahead, "publish without absorb would lose corrections"
            self._published.copy_(self.flat)
            self._base_buffers.copy_(self.flat[self.num_parameters :])
            self._behind = self._stale = False

    def settle(self) -> None:
        """A step boundary without a step."""
        with self._lock:
            # Only corrections have come since the last step, and the snapshot holds them: nothing is to be published.
            same = not self._behind and not self._pending and self.num_parameters == self.size
            self._take_in()
            self._behind = not same
        if not same:
            self.publish()

    def load(self, vector: Tensor) -> None:
        """Start from another vector, (d,): a checkpoint or a donor's state. No exchange may be under way."""
        with self._lock:
            if self._lease is not None:
                raise PeerBusy
            self.flat.copy_(vector)
            self._published.copy_(vector)
            self._base_buffers.copy_(self.flat[self.num_parameters :])
            self._ahead = self._pending = self._behind = self._stale = False
            self._num_exchanges = 0
            if self.companion is not None:
                self.companion.reset(self.flat)


class NotSwapped:
    """What a swap is shown of a replica that none may change: nobody gets hold of it."""

    def __init__(self, replica: Replica, num: int = 1) -> None:
        """`num`: of how many vectors like the model those consist that are shown in rounds."""
        self._replica = replica
        self.size, self.fingerprint = num * replica.size, replica.fingerprint

    def snapshot(self) -> Tensor:
        return self._replica.snapshot()

    def account(self, peer: str) -> bytes:
        return b""

    @property
    def is_free(self) -> bool:
        return False

    def lease(self, peer: str) -> Lease:
        raise PeerBusy

    def agree(self, lease: Lease, account: bytes) -> None: ...

    def commit(self, lease: Lease, exchange: bytes) -> None: ...

    def release(self, lease: Lease) -> None: ...


def named_slices(module: nn.Module) -> Iterator[tuple[str, slice]]:
    """Where each tensor lies in the flat vector: trainable parameters (tied ones once), then floating-point buffers."""
    offset = 0
    for name, tensor in named_tensors(module):
        yield name, slice(offset, offset + tensor.numel())
        offset += tensor.numel()


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What nodes have in common, in the order in which it lies in the flat vector."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            yield name, parameter
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            yield name, buffer


def _flatten(module: nn.Module) -> tuple[Tensor, int]:
    """Move what is exchanged into one float32 vector and leave views of it in the module."""
    tensors = [tensor for _, tensor in named_tensors(module)]
    flat = torch.cat([tensor.detach().reshape(-1).to(torch.float32) for tensor in tensors])
    num_parameters = 0
    for (_, where), tensor in zip(list(named_slices(module)), tensors, strict=True):
        tensor.data = flat[where].view(tensor.shape)
        if isinstance(tensor, nn.Parameter):
            num_parameters = where.stop
    return flat, num_parameters


def _fingerprint(module: nn.Module) -> bytes:
    """32 bytes that two nodes share exactly when their vectors mean the same thing: names and shapes in order."""
    layout = repr([(name, tuple(tensor.shape)) for name, tensor in named_tensors(module)])
    return hashlib.sha256(layout.encode()).digest()


def as_bytes(vector: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    return vector.detach().numpy().data.cast("B")
