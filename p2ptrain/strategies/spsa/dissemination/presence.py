"""Who takes part at present: peers in this node's view, and those beyond it whose signed words still come."""

from typing import TYPE_CHECKING

from p2ptrain.strategies.spsa.ledger.roster import Roster
from p2ptrain.telemetry.events import Noted
from p2ptrain.waiting import now

if TYPE_CHECKING:
    from p2ptrain.node import Node

SILENT_S = 10.0
"""Who has said nothing for so long, or for as many of its batches, is gone."""
BATCHES = 5
EXCUSED_S = 120.0
"""A broker may be away for so long before its silence counts."""


class Presence:
    """A node that reaches only some, or only a broker, hears of the others by what they signed."""

    def __init__(self, node: "Node", roster: Roster, batch_s: float) -> None:
        self._node, self._roster = node, roster
        self._silent_s = max(SILENT_S, BATCHES * batch_s)
        self._spoke: dict[int, float] = {}  # when something new of a slot has come
        self._excused_s = 0.0

    def spoke(self, slot: int) -> None:
        self._spoke[slot] = now()

    def heard_nothing(self, seconds: float) -> None:
        """Nobody could be heard for so long, which is not the fault of those who were silent."""
        was_excused = self._excused_s <= EXCUSED_S
        self._excused_s += seconds
        if self._excused_s <= EXCUSED_S:
            self._spoke = {slot: time + seconds for slot, time in self._spoke.items()}
        elif was_excused and self.beyond():
            message = f"the broker has been away for {EXCUSED_S:g} s: who is heard only there counts as gone"
            self._node.emit(Noted("warning", message))

    def hears_again(self) -> None:
        """The next silence of the broker is another one."""
        self._excused_s = 0.0

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
