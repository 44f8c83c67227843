"""One honest side of a swap on a real socket, and peers that speak gRPC by hand and can say anything."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import torch
from torch import nn

from p2ptrain import aggregators, codecs
from p2ptrain.errors import PeerError
from p2ptrain.exchange.pairwise import SWAP, Exchanger
from p2ptrain.network.identity import Identity
from p2ptrain.network.tls import Credentials
from p2ptrain.network.transport import GrpcTransport
from p2ptrain.ports import Contact, PeerId
from p2ptrain.telemetry.events import Event, Exchanged, Failed, Rejected
from p2ptrain.training.replica import Replica
from p2ptrain.wire.exchange_pb2 import Chunk, Commit, Open, Ready, SwapMessage

KEY, RUN = "the key of the swarm", "run"
CHUNK = 410
NUM_CHUNKS = 4
"""of a Linear(40, 40)"""


class Honest:
    """A node reduced to its replica and its swaps."""

    def __init__(self, index: int = 0) -> None:
        identity = Identity.ephemeral()
        self.me = identity.peer
        self.credentials = Credentials(identity, KEY, RUN)
        self.transport = GrpcTransport(self.me, self.credentials, lambda caller, error: None)
        torch.manual_seed(index)
        self.replica = Replica(nn.Linear(40, 40))
        self.events: list[Event] = []
        self.gone: set[PeerId] = set()
        self.something = asyncio.Event()
        self.exchanger = Exchanger(
            transport=self.transport,
            shared=self.replica,
            run=RUN,
            codec=codecs.make("fp32"),
            aggregator=aggregators.make("mean"),
            emit=self._emit,
            rng=random.Random(index),
            step=lambda: 0,
        )

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self.something.set()

    async def start(self) -> None:
        self.address = self.transport.bind("127.0.0.1:0")
        await self.transport.start()
        self._settling = asyncio.create_task(self.exchanger.settle_doubts())

    async def close(self) -> None:
        self._settling.cancel()
        await self.transport.close(0.1)

    def meet(self, other: "Honest | Liar") -> None:
        self.transport.learn(other.me, Contact((other.address,), other.credentials.certificate_der))

    def reasons(self, peer: PeerId) -> list[str]:
        """Why swaps with this peer came to nothing."""
        return [event.reason for event in self.events if isinstance(event, Failed) and event.peer == peer]

    def lies(self, peer: PeerId) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, Rejected) and event.peer == peer]

    def swaps(self, peer: PeerId) -> int:
        return sum(isinstance(event, Exchanged) and event.peer == peer for event in self.events)

    async def until(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Until the events so far satisfy it."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.something.clear()
                await self.something.wait()

    def is_free(self) -> bool:
        """No swap holds the replica."""
        try:
            self.replica.release(self.replica.lease())
        except PeerError:
            return False
        return True


class Liar:
    """A member of the swarm, with the right key, that does its own protocol."""

    def __init__(self) -> None:
        identity = Identity.ephemeral()
        self.me = identity.peer
        self.credentials = Credentials(identity, KEY, RUN)
        self.address = ""
        self._server: grpc.aio.Server | None = None
        self.served = asyncio.Event()

    @asynccontextmanager
    async def calling(self, victim: Honest) -> AsyncIterator["Call"]:
        """A swap with the victim, of which this side says each word."""
        credentials, options = self.credentials.to_peer(victim.me, victim.credentials.certificate_der)
        limits = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(victim.address, credentials, options=[*options, *limits]) as channel:
            call = channel.stream_stream(SWAP)(timeout=30)
            try:
                yield Call(call, victim)
            finally:
                call.cancel()

    async def serve(
        self, answer: Callable[["Served"], Awaitable[None]], others: dict[str, grpc.RpcMethodHandler] | None = None
    ) -> None:
        """Answer swaps in this way, and other methods of the service."""

        async def handler(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            try:
                await answer(Served(context))
            finally:
                self.served.set()

        service, _, name = SWAP[1:].partition("/")
        handlers = {name: grpc.stream_stream_rpc_method_handler(handler), **(others or {})}
        self._server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
        port = self._server.add_secure_port("127.0.0.1:0", self.credentials.server())
        await self._server.start()
        self.address = f"127.0.0.1:{port}"

    async def close(self) -> None:
        if self._server is not None:
            await self._server.stop(0)


class Call:
    """The initiator's words, right until somebody chooses others."""

    def __init__(self, call: Any, victim: Honest) -> None:
        self.call = call
        self.victim = victim
        self.said: list[bytes] = []

    def opening(self, **changes: Any) -> Open:
        fields: dict[str, Any] = {
            "exchange": random.randbytes(16),
            "run": RUN,
            "model": self.victim.replica.fingerprint,
            "size": self.victim.replica.size,
            "chunk_size": CHUNK,
            "codec": codecs.make("fp32").model_dump_json(),
        }
        return Open(**{**fields, **changes})

    async def say(self, message: SwapMessage | bytes) -> None:
        encoded = message if isinstance(message, bytes) else message.SerializeToString()
        self.said.append(encoded)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the victim may have hung up
            await self.call.write(encoded)

    async def open(self, **changes: Any) -> None:
        await self.say(SwapMessage(open=self.opening(**changes)))

    async def chunk(self, index: int, payload: bytes | None = None) -> None:
        await self.say(SwapMessage(chunk=Chunk(index=index, payload=bytes(4 * CHUNK) if payload is None else payload)))

    async def chunks(self, count: int = NUM_CHUNKS) -> None:
        for index in range(count):
            await self.chunk(index)

    async def commit(self) -> None:
        await self.say(SwapMessage(commit=Commit()))

    async def hear(self, body: str) -> SwapMessage:
        """The next message, which must be this one."""
        encoded = await self.call.read()
        assert encoded is not grpc.aio.EOF, f"closed where {body} was due: {await self.call.details()}"
        message = SwapMessage.FromString(encoded)
        assert message.WhichOneof("body") == body
        return message

    async def hear_all(self, *bodies: str) -> None:
        for body in bodies:
            await self.hear(body)

    async def until_ready(self, **changes: Any) -> None:
        """All of a swap up to the decision."""
        await self.open(**changes)
        await self.hear("open")
        await self.chunks()
        await self.hear_all(*["chunk"] * NUM_CHUNKS, "ready")

    async def is_over(self) -> None:
        """The victim has closed the stream, after whatever else it had to say."""
        async with asyncio.timeout(10):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            await self.call.code()


class Served:
    """The responder's words."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.context = context
        self.opened = Open()

    async def say(self, message: SwapMessage | bytes) -> None:
        await self.context.write(message if isinstance(message, bytes) else message.SerializeToString())

    async def open(self, **changes: Any) -> None:
        """Hear the initiator's Open and answer with the same, or nearly."""
        message = SwapMessage.FromString(await self.context.read())
        assert message.WhichOneof("body") == "open"
        self.opened = message.open
        answer = Open()
        answer.CopyFrom(message.open)
        for field, value in changes.items():
            setattr(answer, field, value)
        await self.say(SwapMessage(open=answer))

    async def chunk(self, index: int = 0, payload: bytes | None = None) -> None:
        payload = bytes(4 * self.opened.size) if payload is None else payload
        await self.say(SwapMessage(chunk=Chunk(index=index, payload=payload)))

    async def ready(self) -> None:
        await self.say(SwapMessage(ready=Ready()))
