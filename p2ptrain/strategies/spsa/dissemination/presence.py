"""Who takes part at present: peers in this node's view, and those beyond it whose signed words still come."""

from typing import TYPE_CHECKING

from p2ptrain.strategies.spsa.ledger.roster import Roster
from p2ptrain.waiting import now

if TYPE_CHECKING:
    from p2ptrain.node import Node

SILENT_S = 10.0
"""Who has said nothing for so long, or for as many of its batches, is gone."""
BATCHES = 5


class Presence:
    """A node that reaches only some, or only a broker, hears of the others by what they signed."""

    def __init__(self, node: "Node", roster: Roster, batch_s: float) -> None:
        self._node, self._roster = node, roster
        self._silent_s = max(SILENT_S, BATCHES * batch_s)
        self._spoke: dict[int, float] = {}  # when something new of a slot has come

    def spoke(self, slot: int) -> None:
        self._spoke[slot] = now()

    def slots(self) -> set[int]:
        """Of all others that are there, as far as their keys are known."""
        members = self._node.membership.view()
        return self._roster.slots_of(member.peer for member in members) | self.beyond()

    def at_work(self) -> set[int]:
        """Of those that still measure, or seem to."""
        members = self._node.membership.view()
        return self._roster.slots_of(member.peer for member in members if member.state == "training") | self.beyond()

    def beyond(self) -> set[int]:
        """Of those that are not in the view."""
        members = self._node.membership.view()
        since = now() - self._silent_s
        self._spoke = {slot: time for slot, time in self._spoke.items() if time > since}
        seen = {self._node.me, *(member.peer for member in members)}
        return {slot for slot in self._spoke if self._roster.peer(slot) not in seen}
