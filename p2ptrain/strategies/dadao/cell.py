"""A node's DADAO state as swaps see it: they mix y + z, and what comes of it moves z and z~.

The sum over the nodes of z + 2 z~ must stay zero (`membership`). Each node therefore keeps, for every peer, an account
of what their exchanges have added to its own z + 2 z~; the peer's is the exact opposite. When a peer is gone, or when
the two do not agree on which exchange was the last, each takes its account with the other out again. So the sum over
those who are left is zero at once and without a word between them, whether a node crashed, left, came back with another
state, or applied an exchange that the other side did not.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from p2ptrain.errors import PeerBusy
from p2ptrain.strategies.dadao import membership
from p2ptrain.strategies.dadao.clocks import ByExchange, Clock
from p2ptrain.strategies.dadao.maths import Constants, State, flow, gradient_event, jump, message
from p2ptrain.training.replica import Lease, Replica
from p2ptrain.waiting import News

NONE = Constants(*([0.0] * len(Constants._fields)))


@dataclass
class Account:
    """What exchanges with one peer have come to."""

    moved: Tensor
    """(d,) float64: added to the own z + 2 z~."""
    last: bytes
    """16 bytes that stand for the last exchange that counted, and for how much it counted."""


class Cell:
    """One node's state. See `training.replica.Shared`; all of it belongs to the event loop."""

    def __init__(self, replica: Replica) -> None:
        self.size = replica.size
        self.constants = NONE
        """May change at any time; an exchange goes by those that both ends had when it began."""
        self.fingerprint = hashlib.sha256(b"dadao" + replica.fingerprint).digest()
        self.state: State | None = None
        self.written_off: Callable[[str], None] = lambda peer: None
        """Hears of a peer whose account was not what it says."""
        self.accounts: dict[str, Account] = {}
        self.exchanged = News()
        """Of those that count."""
        self._zero, self._own, self._out = torch.zeros(self.size), torch.empty(self.size), torch.empty(self.size)
        self._lease: Lease | None = None
        self._agreed = NONE
        """What the exchange that holds the lease goes by."""
        self._clock: Clock = ByExchange(0.0)

    def begin(self, x: Tensor, constants: Constants, clock: Clock) -> None:
        """From the model of somebody who is there, (d,)."""
        self.constants, self._clock = constants, clock
        self.state = membership.join(x.double(), constants)

    @property
    def x(self) -> Tensor:
        """The model, (d,) float32."""
        assert self.state is not None, "begin first"
        return self.state.x.float()

    def gradient(self, at: Tensor, gradient: Tensor) -> None:
        """`gradient`, (d,), was taken at the model `at`; exchanges may have come since."""
        state = self._flowed(is_exchange=False)
        stale = self.constants.nu * (state.x - at.double())
        self.state = gradient_event(state, gradient.double() + stale, self.constants)
        self._clock.tick(is_exchange=False)

    def restart(self, x: Tensor) -> None:
        """Begin again from a model, (d,), without what was exchanged so far."""
        self.accounts.clear()
        self._lease = None
        self.state = membership.restart(membership.begin(x.double()))

    def keep(self, peers: Collection[str]) -> None:
        """These are there; the others' accounts are written off."""
        for peer in [peer for peer in self.accounts if peer not in peers]:
            if self._lease is None or self._lease.peer != peer:
                self._write_off(peer)

    def snapshot(self) -> Tensor:
        return self._own.clone()

    def account(self, peer: str) -> bytes:
        """Which exchange was the last, and with which constants the next one must be."""
        known = self.accounts.get(peer)
        return (known.last if known else bytes(16)) + _digest(self.constants)

    @property
    def is_free(self) -> bool:
        return self.state is not None and self._lease is None

    def lease(self, peer: str = "") -> Lease:
        if not self.is_free:
            raise PeerBusy
        self._own.copy_(message(self._flowed(is_exchange=True)))
        self._lease, self._agreed = Lease(self._own, self._out, base=self._zero, peer=peer), self.constants
        return self._lease

    def agree(self, lease: Lease, account: bytes) -> None:
        mine = self.account(lease.peer)
        if account[16:] != mine[16:]:
            raise PeerBusy  # until both have compared what they know of all nodes' losses, or go by the same graph
        self._agreed = self.constants
        if account != mine:
            lease.own.add_(self._write_off(lease.peer))
            self.written_off(lease.peer)

    def commit(self, lease: Lease, exchange: bytes = b"") -> None:
        if lease is not self._lease or self.state is None:
            return  # begun again meanwhile: the peer will find that the accounts do not agree
        self._lease = None
        difference, constants = -2 * lease.out.double(), self._agreed
        self.state = jump(self._flowed(is_exchange=True), difference, torch.zeros_like(difference), constants)
        self._clock.tick(is_exchange=True)
        account = self.accounts.setdefault(lease.peer, Account(torch.zeros_like(difference), b""))
        account.moved.sub_((constants.beta + 2 * constants.beta_tilde) * difference)
        # A doubt may be settled once the constants have changed, and the accounts are no longer opposite then.
        account.last = hashlib.sha256(exchange + _digest(constants)).digest()[:16]
        self.exchanged.tell()

    def release(self, lease: Lease) -> None:
        if lease is self._lease:
            self._lease = None

    def _write_off(self, peer: str) -> Tensor:
        """By how much z moves, (d,). What flows between z and z~ does not change z + 2 z~, and where they end up they
        are equal: so each gives back a third."""
        assert self.state is not None
        account = self.accounts.pop(peer, None)
        if account is None:
            return torch.zeros(self.size)
        moved = account.moved / -3
        self.state = self.state._replace(z=self.state.z + moved, z_tilde=self.state.z_tilde + moved)
        return moved.float()

    def _flowed(self, is_exchange: bool) -> State:
        assert self.state is not None
        return flow(self.state, self._clock.ahead(is_exchange), self.constants)


def _digest(constants: Constants) -> bytes:
    return hashlib.sha256(repr(constants).encode()).digest()[:16]
