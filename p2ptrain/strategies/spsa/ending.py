"""The end of a run: a node leaves when all that are there have finished, and end with the same bytes and integers."""

import asyncio
from typing import TYPE_CHECKING

from p2ptrain.strategies.spsa.ledger.audit import fingerprint
from p2ptrain.strategies.spsa.ledger.book import EVERYTHING
from p2ptrain.telemetry.events import Noted
from p2ptrain.waiting import now
from p2ptrain.wire.onebyte_pb2 import Said

if TYPE_CHECKING:
    from p2ptrain.strategies.spsa.part import Part

FOLLOWED_S = 10.0
"""After so long without news a node closes what others have closed: what is missing will not come."""
QUIET_S = 120.0
"""How long it waits for others that have finished too, and do not end with the same."""
OTHERS_S = 3600.0
"""The same for others that still measure."""
NEXT_S = 0.5
"""As the last bytes come in, not each is worth another last word."""
AGAIN_S = 3.0
"""Those who do not see us hear that we are still there."""
LAST_WORDS_S = 2.0


class Ending:
    """What a node does after its last evaluation."""

    def __init__(self, part: "Part") -> None:
        self._part, self._node, self._flood = part, part.node, part.flood
        self._slot = part.replica.slot
        self._log = self._master = b""
        self._changed, self._said = now(), float("-inf")

    async def run(self) -> None:
        """Returns when it is over, whoever is missing."""
        node, flood = self._node, self._flood
        await flood.publish()
        node.finish()
        while not node.draining:
            await self._look()
            finished = flood.finished = self._all_have_finished()
            is_done = finished and self._all_end_like_this()
            self._say(is_done)
            if is_done:
                node.done()
                if self._all_are_done():
                    if flood.presence.beyond():
                        await asyncio.sleep(LAST_WORDS_S)
                    return
            quiet_s = now() - self._changed
            if finished and quiet_s > FOLLOWED_S:
                async with flood.writing:
                    flood.horizon.follow()
            if quiet_s > (QUIET_S if finished else OTHERS_S):
                node.emit(Noted("warning", "ends without all others having said that they end with the same"))
                return
            await flood.news(0.2)

    async def _look(self) -> None:
        """What this node ends with, as far as it knows."""
        log = fingerprint(self._part.replica.book, 0, EVERYTHING)
        if log != self._log:
            self._log, self._changed = log, now()
            await self._part.apply(self._part.working.follow)
            self._master = await self._node.compute.run(self._part.replica.master.lattice.digest)

    def _say(self, is_done: bool) -> None:
        """A last word whenever it is another; after a restart an older one of ours may have come back."""
        mine = self._flood.finals.get(self._slot)
        is_said = mine is not None and (mine.log, mine.master, mine.done) == (self._log, self._master, is_done)
        due_s = NEXT_S if not is_said else AGAIN_S if self._flood.presence.beyond() else float("inf")
        if now() - self._said >= due_s:
            self._said = now()
            self._flood.say_final(self._log, self._master, is_done)

    def _all_have_finished(self) -> bool:
        view = self._node.membership.view()
        beyond = self._flood.presence.beyond()
        return all(member.state in ("finished", "done") for member in view) and beyond <= self._flood.finals.keys()

    def _all_end_like_this(self) -> bool:
        flood = self._flood
        peers = [member.peer for member in self._node.membership.view()]
        finals = [flood.finals[slot] for slot in flood.presence.slots() if slot in flood.finals]
        for final in finals:
            if final.log == self._log and final.master != self._master:
                self._name(final)
        enough = len(flood.roster.slots_of(peers)) == len(peers) and len(finals) == len(flood.presence.slots())
        return enough and all(final.log == self._log for final in finals)

    def _all_are_done(self) -> bool:
        view, finals = self._node.membership.view(), self._flood.finals
        return all(member.state == "done" for member in view) and all(
            finals[slot].done for slot in self._flood.presence.beyond()
        )

    def _name(self, final: Said.Final) -> None:
        peer = self._flood.roster.peer(next(slot for slot, each in self._flood.finals.items() if each is final))
        self._flood.reject(peer or "", "wrong-master", "has all bytes, and other integers")
