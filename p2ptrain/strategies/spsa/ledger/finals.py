"""Last words: each node that makes no more bytes signs what it ends with, and everyone comes to know."""

import random
from typing import TYPE_CHECKING

from p2ptrain.errors import PeerError
from p2ptrain.strategies.spsa.ledger.roster import slot_of
from p2ptrain.wire.onebyte_pb2 import Said

if TYPE_CHECKING:
    from p2ptrain.node import Node

REPEATED = 2
"""So many are told again with each seal, for those who did not hear."""
_PREFIX = b"p2ptrain-onebyte-final-v1"


class Finals(dict[int, Said.Final]):
    """By slot, the last word of those that have finished."""

    def __init__(self, node: "Node", identity: bytes, slot: int, number: int) -> None:
        super().__init__()
        self._node, self._identity, self._slot, self._number = node, identity, slot, number

    def sign(self, log: bytes, master: bytes, done: bool) -> Said.Final:
        """This node makes no more bytes and ends with these."""
        self._number += 1
        number = self._number
        final = Said.Final(key=self._node.public_key, number=number, log=log, master=master, done=done)
        final.signature = self._node.sign(self._text(final))
        return final

    def check(self, final: Said.Final) -> None:
        """Raises `PeerError` unless its speaker has signed it."""
        if len(final.log) != 32 or len(final.master) != 32:
            raise PeerError("malformed", "a last word of nothing")
        if not self._node.verify(final.key, self._text(final), final.signature):
            raise PeerError("bad-signature", "a last word that is not its speaker's")

    def take(self, final: Said.Final) -> bool:
        """Whether it is news."""
        slot = slot_of(final.key)
        is_news = slot not in self or self[slot].number < final.number
        if is_news:
            self[slot] = final
        return is_news

    def some(self, rng: random.Random) -> list[Said.Final]:
        return rng.sample(list(self.values()), min(REPEATED, len(self)))

    def _text(self, final: Said.Final) -> bytes:
        return (
            _PREFIX + self._identity + final.number.to_bytes(8, "big") + final.log + final.master + bytes([final.done])
        )
