"""Who is there, from one table of the whole world instead of heartbeats: for swarms of thousands."""

import asyncio
import dataclasses

from p2ptrain.ports import PeerId
from p2ptrain.swarm.view import Member, State
from p2ptrain.waiting import News

DELAY_S = 0.5
"""How old the news is that nodes have of each other."""


class Table:
    """What all nodes have said of themselves; they see it as it was a moment ago, and so no more often than that."""

    def __init__(self) -> None:
        self._now: dict[PeerId, Member] = {}
        self._is_due = False
        self.shown: tuple[Member, ...] = ()
        """In the order of their ids."""
        self.change = News()

    def put(self, member: Member) -> None:
        self._now[member.peer] = member
        self._show_soon()

    def remove(self, peer: PeerId) -> None:
        """It has left, or died; nobody is told which."""
        if self._now.pop(peer, None):
            self._show_soon()

    def _show_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(DELAY_S, self._show)

    def _show(self) -> None:
        self._is_due = False
        self.shown = tuple(self._now[peer] for peer in sorted(self._now))
        self.change.tell()


class TableMembers:
    """`swarm.view.Members` of one node."""

    searching = False

    def __init__(self, table: Table, peer: PeerId, name: str, slot: int) -> None:
        self._table = table
        self._me = Member(peer, name, slot, 0, State.STARTING, reachable=True, rtt_s=None, deadline_s=None, dht=())

    @property
    def alone(self) -> bool:
        return all(member.peer == self._me.peer for member in self._table.shown)

    def view(self) -> list[Member]:
        return [member for member in self._table.shown if member.peer != self._me.peer]

    def find(self, peer: PeerId) -> Member | None:
        return next((member for member in self.view() if member.peer == peer), None)

    async def changed(self) -> None:
        await self._table.change.next()

    def set_state(self, state: State, step: int) -> None:
        """Steps alone are no news: a thousand nodes take many."""
        is_news = state != self._me.state
        self._me = dataclasses.replace(self._me, state=state, step=step)
        if is_news:
            self._table.put(self._me)

    def set_epoch(self, epoch: int) -> None:
        self._me = dataclasses.replace(self._me, epoch=epoch)
        self._table.put(self._me)

    async def run(self) -> None:
        self._table.put(self._me)

    async def leave(self) -> None:
        self._table.remove(self._me.peer)
