"""One stream to a neighbour: messages within deadlines, and questions that find their answers."""

import asyncio
from collections import deque

from p2ptrain.errors import PeerError
from p2ptrain.messages import parse
from p2ptrain.pace import Pace, deadline_is_peer_error
from p2ptrain.ports import Stream
from p2ptrain.waiting import within
from p2ptrain.wire.onebyte_pb2 import Said

SIZE_BYTES_MAX = 1 << 20
OUTBOX_MAX = 64
WAITING_MAX = 1 << 16
"""Records per neighbour; of more it hears when it compares."""
REQUESTS_MAX = 8
GRACE_S = 10.0
"""On top of what the neighbour's pace allows: it says nothing for seconds where there is nothing to say."""


class Link:
    """Between this node and one neighbour, for as long as the stream lives."""

    def __init__(self, stream: Stream, pace: Pace, again_s: float | None = None) -> None:
        """`again_s`: where messages get lost, what is not answered is asked again after that, then after twice that."""
        self.peer = stream.peer
        self.is_aired = again_s is not None
        """It goes over a broker."""
        self._again_s = again_s
        self.greeted = False
        """The neighbour has said Hello, of the same run."""
        self.confirmed = False
        """It has said more than that, so it has heard ours."""
        self.waiting: dict[bytes, None] = {}
        """Records that it is to be sent, in order."""
        self.told: set[int] = set()
        """Slots whose keys it was sent."""
        self.seal: Said.Seal | None = None
        """The last that it said; and the last with a digest of its integers."""
        self.audit: Said.Seal | None = None
        self.audit_told = 0
        """The round of our last audit that it was told of."""
        self.equal = False
        """Whether its last seal was ours, too."""
        self.differs = asyncio.Event()
        self.ignorant = False
        """It is to be told all last words and closings: it is new, or differs in what is closed."""
        self.requests: asyncio.Queue[Said] = asyncio.Queue(REQUESTS_MAX)
        """For snapshots, which take a while."""
        self.spoke = asyncio.get_running_loop().time()
        """When it last said anything."""
        self.retired = asyncio.Event()
        """Another stream has taken its place."""
        self.bytes_sent = self.bytes_received = 0
        self._stream, self._pace = stream, pace
        self._outbox: deque[Said] = deque()
        self._posted = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Said]] = {}
        self._number = 0

    async def send(self, said: Said) -> None:
        """Only one task may: the one that calls `rest`."""
        encoded = said.SerializeToString()
        with deadline_is_peer_error():
            async with asyncio.timeout(self._patience(len(encoded))):
                await self._stream.send(encoded)
        self.bytes_sent += len(encoded)

    async def receive(self) -> Said:
        """The next message; the neighbour says something all the time."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        with deadline_is_peer_error():
            async with asyncio.timeout(self._patience(SIZE_BYTES_MAX)):
                message = await self._stream.receive()
        self._pace.observe(self.peer, loop.time() - started)
        self.spoke = loop.time()
        self.bytes_received += len(message)
        return parse(Said(), message, SIZE_BYTES_MAX)

    def post(self, said: Said) -> None:
        """Have it sent soon. Raises `PeerError("flooding")` where a neighbour asks more than it takes answers."""
        if len(self._outbox) >= OUTBOX_MAX:
            raise PeerError("flooding", "asks, and does not take the answers")
        self._outbox.append(said)
        self._posted.set()

    async def rest(self, seconds: float) -> None:
        """Send what is posted, for so long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left_s := until - loop.time()) > 0:
            while self._outbox:
                await self.send(self._outbox.popleft())
            self._posted.clear()
            await within(left_s, self._posted.wait())

    async def ask(self, question: Said) -> Said:
        """The answer. Raises `PeerError`."""
        self._number += 1
        question.id = self._number
        answer = self._asked[question.id] = asyncio.get_running_loop().create_future()
        try:
            self.post(question)
            with deadline_is_peer_error():
                async with asyncio.timeout(self._patience(SIZE_BYTES_MAX)):
                    wait_s = self._again_s
                    while wait_s is not None and not (await asyncio.wait([answer], timeout=wait_s))[0]:
                        self.post(question)
                        wait_s *= 2
                    return await answer
        finally:
            del self._asked[question.id]

    def answered(self, answer: Said) -> None:
        """It has come; to a question that is no longer waited for, it is left out."""
        waiting = self._asked.get(answer.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def owe(self, record: bytes) -> None:
        if len(self.waiting) < WAITING_MAX:
            self.waiting[record] = None

    def _patience(self, num_bytes: int) -> float:
        return GRACE_S + self._pace.patience(self.peer, num_bytes)
