"""Who talks to whom: one stream to each neighbour, which either side may have opened."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from p2ptrain.errors import PeerError
from p2ptrain.pace import STREAM_TIMEOUT_S, Pace
from p2ptrain.ports import PeerId, Stream
from p2ptrain.strategies.spsa.dissemination.complaints import Complaints
from p2ptrain.strategies.spsa.dissemination.link import Link
from p2ptrain.waiting import both, now, within

if TYPE_CHECKING:
    from p2ptrain.node import Node

FLOOD = "/p2ptrain.v1.OneByte/Flood"

LINKS_MAX = 32
FANOUT = 3
"""Neighbours that a node calls where there is no graph: the next in the ring of ids, so that all are connected."""
SILENT_S = 6.0
"""A stream over which nothing has come for so long may be replaced."""
REDIAL_S, SHUNNED_S = 1.0, 30.0
LIES = frozenset({"malformed", "oversized", "wrong-model", "bad-signature", "flooding", "crowded", "slot-taken"})
"""What no honest neighbour says, nor passes on."""

Talk = Callable[[Link], Coroutine[Any, Any, None]]
"""All that goes over one link; ends with a `PeerError`."""


class Dialling:
    """The links of one node, over its transport."""

    def __init__(self, node: "Node", complaints: Complaints, talk: Talk) -> None:
        self.links: dict[PeerId, Link] = {}
        self._node, self._complaints, self._talk = node, complaints, talk
        self._pace = Pace()
        self._not_before: dict[PeerId, float] = {}  # when a peer may be called, or let in
        self._dialling: set[PeerId] = set()
        node.transport.serve_stream(FLOOD, self._serve)

    async def run(self) -> None:
        """Call whom there is no stream to, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                for peer in self._wanted():
                    if peer not in self.links and peer not in self._dialling and self._may(peer):
                        self._dialling.add(peer)
                        group.create_task(self._dial(peer))
                await within(REDIAL_S, self._node.membership.changed())

    def _wanted(self) -> Iterator[PeerId]:
        """Of two neighbours the one with the lower id calls, unless it has not by the next time."""
        me, has_graph = self._node.me, self._node.graph is not None
        peers = sorted(member.peer for member in self._node.neighbours())
        if not has_graph:
            later = [peer for peer in peers if peer > me]
            peers = [*later, *(peer for peer in peers if peer < me)][:FANOUT]
        for peer in peers:
            if me < peer or not has_graph:
                yield peer
            elif peer not in self._not_before:
                self._not_before[peer] = now() + 2 * REDIAL_S
            elif self._may(peer):
                yield peer

    async def _dial(self, peer: PeerId) -> None:
        try:
            async with self._node.transport.stream(peer, FLOOD, STREAM_TIMEOUT_S) as stream:
                await self._hold(stream, called_by=self._node.me)
        except PeerError:
            pass  # said where it matters; the next attempt comes soon enough
        finally:
            self._dialling.discard(peer)
            self._put_off(peer, REDIAL_S)

    async def _serve(self, stream: Stream) -> None:
        if not self._may(stream.peer, shunned_only=True) or len(self.links) >= LINKS_MAX:
            raise PeerError("busy", "no more neighbours for now")
        await self._hold(stream, called_by=stream.peer)

    async def _hold(self, stream: Stream, called_by: PeerId) -> None:
        """A stream from its first to its last message; the same at both ends."""
        self._retire_other(stream.peer, called_by)
        link = self.links[stream.peer] = Link(stream, self._pace)
        try:
            await both(self._talk(link), _until_retired(link))
        except PeerError as error:
            if error.reason in LIES:
                self._complaints.reject(stream.peer, error.reason, error.detail)
                self._put_off(stream.peer, SHUNNED_S)
            raise
        finally:
            if self.links.get(stream.peer) is link:
                del self.links[stream.peer]

    def _retire_other(self, peer: PeerId, called_by: PeerId) -> None:
        """Both may have called each other: what the one with the lower id began stays, unless it has gone silent."""
        other = self.links.get(peer)
        if other is not None:
            if called_by == max(peer, self._node.me) and now() - other.spoke < SILENT_S:
                raise PeerError("busy", "there is a stream already")
            other.retired.set()

    def _may(self, peer: PeerId, shunned_only: bool = False) -> bool:
        left_s = self._not_before.get(peer, 0.0) - now()
        return left_s <= (2 * REDIAL_S if shunned_only else 0.0)

    def _put_off(self, peer: PeerId, seconds: float) -> None:
        self._not_before[peer] = max(self._not_before.get(peer, 0.0), now() + seconds)


async def _until_retired(link: Link) -> None:
    await link.retired.wait()
    raise PeerError("closed", "another stream has taken its place")
