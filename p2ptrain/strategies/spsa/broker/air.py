"""Messages over a channel on which anybody may say anything: signed, numbered, and in parts that a broker takes."""

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from p2ptrain.bounded import keep
from p2ptrain.errors import PeerError
from p2ptrain.messages import parse
from p2ptrain.ports import AIRED_BYTES_MAX, Bytes, Channel, PeerId, peer_id_of
from p2ptrain.strategies.spsa.dissemination.link import SIZE_BYTES_MAX
from p2ptrain.wire.onebyte_pb2 import Aired

if TYPE_CHECKING:
    from p2ptrain.node import Node

PART_BYTES = 3 * AIRED_BYTES_MAX // 4
PARTS_MAX = SIZE_BYTES_MAX // PART_BYTES + 1
UNFINISHED_MAX = 4
"""Messages of which parts have come, per way."""
WINDOW = 64
"""Numbers may come so much out of order (as in IPsec, RFC 4303, 3.4.3)."""
SPEAKERS_MAX = 1024
_PREFIX = b"p2ptrain-onebyte-aired-v1"


class Message(NamedTuple):
    """One that was heard, whole."""

    peer: PeerId
    key: bytes
    content: bytes
    """An encoded `Said`."""
    is_mine: bool
    """It was said to this node alone."""


class Way:
    """From one speaker to us, or to all: which numbers have come, and what has come of messages in parts."""

    def __init__(self) -> None:
        self._highest, self._seen = 0, 0  # the latter one bit for each number, downwards from the highest
        self._parts: dict[int, dict[int, Aired]] = {}  # by the number of the first part, and index

    def take(self, aired: Aired) -> bytes | None:
        """The message, if this was all that was missing of it. What has come before, or is far behind, is left out."""
        if not self._is_new(aired.number) or aired.index > PARTS_MAX:
            return None
        parts = self._parts.setdefault(aired.number - aired.index, {})
        parts[aired.index] = aired
        while len(self._parts) > UNFINISHED_MAX:
            del self._parts[next(iter(self._parts))]
        count = next((part.index + 1 for part in parts.values() if not part.more), None)
        if count is None or len(parts) < count:
            return None
        self._parts.pop(aired.number - aired.index, None)
        return b"".join(parts[index].part for index in range(count)) if parts.keys() == set(range(count)) else None

    def _is_new(self, number: int) -> bool:
        ahead = number - self._highest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, WINDOW) | 1) & (1 << WINDOW) - 1
            self._highest = number
            return True
        is_new = -ahead < WINDOW and not self._seen >> -ahead & 1
        self._seen |= 1 << -ahead if is_new else 0
        return is_new


class Air:
    """One node's mouth and ears on a channel."""

    def __init__(self, node: "Node", channel: Channel, identity: bytes, number: int) -> None:
        """`number`: above all that this node has ever used."""
        self.channel = channel
        self.bytes_sent = self.bytes_received = 0
        self._node, self._identity = node, identity
        self._numbers: defaultdict[PeerId | None, int] = defaultdict(lambda: number)
        self._ways: dict[tuple[PeerId, bool], Way] = {}

    async def say(self, content: Bytes, to: PeerId | None = None) -> None:
        """An encoded `Said`, to one or to all."""
        for index, start in enumerate(range(0, len(content), PART_BYTES)):
            self._numbers[to] += 1
            end = start + PART_BYTES
            aired = Aired(
                key=self._node.public_key, identity=self._identity, number=self._numbers[to], index=index,
                more=end < len(content), part=bytes(content[start:end]),
            )  # fmt: skip
            aired.signature = self._node.sign(_text(aired, to))
            encoded = aired.SerializeToString()
            self.bytes_sent += len(encoded)
            await self.channel.say(encoded, to)

    async def hear(self) -> Message | None:
        """What the next part completes. Raises `PeerError`: `wrong-model` once it is known who says so, else about
        nobody in particular."""
        encoded, is_mine = await self.channel.hear()
        self.bytes_received += len(encoded)
        aired = parse(Aired(), encoded, AIRED_BYTES_MAX)
        to = self._node.me if is_mine else None
        if len(aired.key) != 32 or not self._node.verify(aired.key, _text(aired, to), aired.signature):
            raise PeerError("bad-signature", "a message at the broker that nobody has signed")
        peer = peer_id_of(aired.key)
        if peer == self._node.me:
            return None
        if aired.identity != self._identity:
            raise WrongModel(peer)
        content = self._way(peer, is_mine).take(aired)
        return None if content is None else Message(peer, aired.key, content, is_mine)

    def _way(self, peer: PeerId, is_mine: bool) -> Way:
        return keep(self._ways, (peer, is_mine), self._ways.get((peer, is_mine)) or Way(), 2 * SPEAKERS_MAX)


class WrongModel(PeerError):
    """Somebody speaks of another run, rule or model."""

    def __init__(self, peer: PeerId) -> None:
        super().__init__("wrong-model", "bytes of another run, rule or model")
        self.peer = peer


def _text(aired: Aired, to: PeerId | None) -> bytes:
    """What is signed. The signature covers whom it is said to, which is not in the message but in its address."""
    unsigned = Aired(
        key=aired.key, identity=aired.identity, number=aired.number, index=aired.index, more=aired.more, part=aired.part
    )
    return _PREFIX + (to or "all").encode() + b"\0" + unsigned.SerializeToString(deterministic=True)
