"""Both sides apply a swap or neither does, whatever becomes of the connection between them.

The initiator decides: once it has the responder's whole vector and its `Ready`, it commits, and remembers that. A
responder that never hears the decision is in doubt: it sets its correction aside, goes on, and asks until it gets an
answer; corrections commute with everything else, so a late one is as good as a prompt one.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import DecodeError
from torch import Tensor, add

from p2ptrain import chaos
from p2ptrain.errors import PeerBusy, PeerError
from p2ptrain.messages import parse
from p2ptrain.pace import Pace
from p2ptrain.ports import Bytes, PeerId, Transport
from p2ptrain.telemetry.events import Event, Exchanged, Rejected
from p2ptrain.training.replica import Shared
from p2ptrain.wire.exchange_pb2 import ResolveReply, ResolveRequest

V = TypeVar("V")

RESOLVE = "/p2ptrain.v1.Exchange/Resolve"

JOURNAL_SIZE = 4096
MAX_DOUBTS = 2
"""Each holds a correction as long as the model, for up to `GONE_S`."""
GONE_S = 60.0
"""A doubt that the initiator has not settled by then is dropped: it is gone, or does not want to say."""


@dataclass
class Doubt:
    """A correction whose swap the initiator may or may not have committed."""

    exchange: bytes
    correction: Tensor
    outcome: Exchanged
    """What to say of the swap if it counts."""


@dataclass
class Decisions:
    """One node's memory of what it decided and of what it waits to hear."""

    transport: Transport
    shared: Shared
    pace: Pace
    emit: Callable[[Event], None]
    _journal: OrderedDict[bytes, bool] = field(default_factory=OrderedDict)
    """Of the swaps that this node initiated: whether they count."""
    _answered: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    """Of the swaps that others initiated: none is answered twice."""
    _doubts: asyncio.Queue[Doubt] = field(default_factory=asyncio.Queue)
    """On their way to being settled; no more than in `_in_doubt`."""
    _in_doubt: list[str] = field(default_factory=list)
    """With whom: an entry for each doubt that is not settled."""

    def __post_init__(self) -> None:
        self.transport.serve(RESOLVE, self._resolve)

    @property
    def is_full(self) -> bool:
        """No further swap may end in doubt now."""
        return len(self._in_doubt) >= MAX_DOUBTS

    def is_in_doubt(self, peer: PeerId) -> bool:
        """Whether a swap with this peer waits for its word."""
        return peer in self._in_doubt

    def commit(self, exchange: bytes) -> None:
        """The swap counts, unless the responder has asked meanwhile and was told that it does not: `PeerError`."""
        if self._journal.get(exchange) is False:
            raise PeerError("closed", "the peer gave up")
        _remember(self._journal, exchange, True)

    def check_new(self, exchange: bytes) -> None:
        """Raises `PeerError` for a swap of somebody else's that was answered before."""
        if exchange in self._answered:
            raise PeerError("replayed", f"exchange {exchange.hex()} was answered before")

    def answer(self, exchange: bytes) -> None:
        """Somebody else's swap begins here."""
        _remember(self._answered, exchange, None)
        chaos.tell("answered", exchange)

    def set_aside(self, doubt: Doubt) -> None:
        """Only in a swap that began when this was not full."""
        self._in_doubt.append(doubt.outcome.peer)
        self._doubts.put_nowait(doubt)

    async def settle_doubts(self) -> None:
        """Runs beside the node: asks the initiators of swaps in doubt what became of them.

        All at once: one that is dead keeps no other from being asked."""

        async def settle(doubt: Doubt) -> None:
            try:
                await self._settle(doubt)
            finally:
                self._in_doubt.remove(doubt.outcome.peer)
                self._doubts.task_done()

        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(settle(await self._doubts.get()))

    async def settled(self) -> None:
        """Returns once no swap is in doubt."""
        await self._doubts.join()

    async def _resolve(self, peer: PeerId, request: Bytes) -> bytes:
        """Answer a responder in doubt. An exchange that is not committed now never will be."""
        asked = parse(ResolveRequest(), request)
        if len(asked.exchange) != 16:
            raise PeerError("malformed", "an exchange id has 16 bytes")
        if asked.exchange not in self._journal:
            _remember(self._journal, asked.exchange, False)
        committed = self._journal[asked.exchange]
        outcome = ResolveReply.OUTCOME_COMMITTED if committed else ResolveReply.OUTCOME_ABORTED
        return ResolveReply(outcome=outcome).SerializeToString()

    async def _settle(self, doubt: Doubt) -> None:
        """Ask until there is an answer or the initiator is gone for good."""
        await chaos.point("in doubt")
        loop, peer = asyncio.get_running_loop(), PeerId(doubt.outcome.peer)
        wait_s, give_up = 0.1, loop.time() + GONE_S
        while loop.time() < give_up:
            try:
                request = ResolveRequest(exchange=doubt.exchange).SerializeToString()
                reply = await self.transport.call(peer, RESOLVE, request, self.pace.patience(peer))
                if ResolveReply.FromString(bytes(reply)).outcome == ResolveReply.OUTCOME_COMMITTED:
                    await self._apply(doubt)
                return
            except DecodeError:
                self.emit(Rejected(peer, "malformed", "not a ResolveReply"))
            except PeerError:
                pass  # it may be back in a moment
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, 5.0)

    async def _apply(self, doubt: Doubt) -> None:
        peer = PeerId(doubt.outcome.peer)
        while True:
            try:
                lease = self.shared.lease(peer)
                break
            except PeerBusy:
                await asyncio.sleep(0.01)
        add(lease.base, doubt.correction, out=lease.out)
        self.shared.commit(lease, doubt.exchange)
        chaos.tell("applied", doubt.exchange, peer, lease)
        self.emit(doubt.outcome)


def _remember(journal: OrderedDict[bytes, V], exchange: bytes, value: V) -> None:
    journal[exchange] = value
    while len(journal) > JOURNAL_SIZE:
        journal.popitem(last=False)
