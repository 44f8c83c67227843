"""Another implementation, made from the .proto file alone, swaps with ours: it calls, and it is called."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
import torch
from bad_peers import KEY, RUN, Honest

from p2ptrain.network.identity import Identity
from p2ptrain.network.tls import Credentials
from p2ptrain.ports import PeerId
from p2ptrain.telemetry.events import Failed, Rejected
from p2ptrain.wire import exchange_pb2, exchange_pb2_grpc


class Stranger(exchange_pb2_grpc.ExchangeServicer):
    """A vector as a list of numbers, messages as protobuf makes them; codec fp32, mean of both."""

    def __init__(self, vector: list[float]) -> None:
        self.vector = vector
        identity = Identity.ephemeral()
        self.me: PeerId = identity.peer
        self.credentials = Credentials(identity, KEY, RUN)
        self.address = ""
        self.heard = asyncio.Queue[str]()

    async def start(self) -> None:
        self._server = grpc.aio.server()
        exchange_pb2_grpc.add_ExchangeServicer_to_server(self, self._server)
        port = self._server.add_secure_port("127.0.0.1:0", self.credentials.server())
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    def parts(self, chunk_size: int) -> list[bytes]:
        starts = range(0, len(self.vector), chunk_size)
        pieces = [self.vector[start : start + chunk_size] for start in starts]
        return [struct.pack(f"<{len(piece)}f", *piece) for piece in pieces]

    def mix(self, payloads: list[bytes]) -> None:
        theirs = [value for payload in payloads for value in struct.unpack(f"<{len(payload) // 4}f", payload)]
        self.vector = [(own + other) / 2 for own, other in zip(self.vector, theirs, strict=True)]

    @asynccontextmanager
    async def asked(self, other: Honest, chunk_size: int, exchange: bytes) -> AsyncIterator[Any]:
        """The initiator's stream, once both have said `Open`."""
        credentials, options = self.credentials.to_peer(other.me, other.credentials.certificate_der)
        async with grpc.aio.secure_channel(other.address, credentials, options=options) as channel:
            stream = exchange_pb2_grpc.ExchangeStub(channel).Swap(timeout=20)
            opening = exchange_pb2.Open(
                exchange=exchange, run=RUN, model=other.replica.fingerprint, size=len(self.vector),
                chunk_size=chunk_size, codec='{"name":"fp32"}', step=7, seed=1,
            )  # fmt: skip
            await stream.write(exchange_pb2.SwapMessage(open=opening))
            assert (await stream.read()).open.size == len(self.vector)
            yield stream

    async def call(self, other: Honest, chunk_size: int) -> None:
        """The initiator's side."""
        async with self.asked(other, chunk_size, b"sixteen bytes it") as stream:
            parts = self.parts(chunk_size)
            received = []
            for index, part in enumerate(parts):
                chunk = exchange_pb2.Chunk(index=index, payload=part)
                await stream.write(exchange_pb2.SwapMessage(chunk=chunk))
                received.append((await stream.read()).chunk)
            assert [chunk.index for chunk in received] == list(range(len(parts)))
            assert (await stream.read()).WhichOneof("body") == "ready"
            self.mix([chunk.payload for chunk in received])
            await stream.write(exchange_pb2.SwapMessage(commit=exchange_pb2.Commit()))
            assert (await stream.read()).WhichOneof("body") == "done"
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            assert await stream.code() == grpc.StatusCode.OK

    async def call_off(self, other: Honest, chunk_size: int) -> tuple[grpc.StatusCode, str]:
        """The initiator's side, when it has answered another one meanwhile; how the other one ends the call."""
        async with self.asked(other, chunk_size, b"sixteen bytes of") as stream:
            await stream.write(exchange_pb2.SwapMessage(refuse=exchange_pb2.Refuse(reason="busy")))
            async with asyncio.timeout(20):
                with suppress(grpc.aio.AioRpcError):
                    while await stream.read() is not grpc.aio.EOF:
                        pass
            return await stream.code(), await stream.details()

    async def Swap(
        self,
        request_iterator: AsyncIterator[exchange_pb2.SwapMessage],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[exchange_pb2.SwapMessage]:
        """The responder's side."""
        opening = (await anext(request_iterator)).open
        yield exchange_pb2.SwapMessage(open=opening)
        payloads = []
        for index, part in enumerate(self.parts(opening.chunk_size)):
            yield exchange_pb2.SwapMessage(chunk=exchange_pb2.Chunk(index=index, payload=part))
            payloads.append((await anext(request_iterator)).chunk.payload)
        yield exchange_pb2.SwapMessage(ready=exchange_pb2.Ready())
        decision = (await anext(request_iterator)).WhichOneof("body")
        if decision == "commit":
            self.mix(payloads)
            yield exchange_pb2.SwapMessage(done=exchange_pb2.Done())
        self.heard.put_nowait(str(decision))

    async def ask_resolve(self, other: Honest, exchange: bytes) -> int:
        credentials, options = self.credentials.to_peer(other.me, other.credentials.certificate_der)
        async with grpc.aio.secure_channel(other.address, credentials, options=options) as channel:
            stub = exchange_pb2_grpc.ExchangeStub(channel)
            reply = await stub.Resolve(exchange_pb2.ResolveRequest(exchange=exchange), timeout=10)
            return reply.outcome


@pytest.fixture
async def ours() -> AsyncIterator[Honest]:
    node = Honest()
    await node.start()
    yield node
    await node.close()


@pytest.fixture
async def stranger(ours: Honest) -> AsyncIterator[Stranger]:
    peer = Stranger([(-1) ** index * index / 1000 for index in range(ours.replica.size)])
    await peer.start()
    ours.meet(peer)  # type: ignore[arg-type]
    yield peer
    await peer.stop()


def middle(ours: Honest, stranger: Stranger) -> torch.Tensor:
    return (ours.replica.snapshot() + torch.tensor(stranger.vector)) / 2


def check(ours: Honest, stranger: Stranger, expected: torch.Tensor) -> None:
    ours.replica.settle()
    assert torch.allclose(ours.replica.snapshot(), expected, atol=1e-6)
    assert torch.allclose(torch.tensor(stranger.vector), expected, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [1 << 18, 500, 410, 1])
async def test_it_calls_us(chunk_size: int, ours: Honest, stranger: Stranger) -> None:
    expected = middle(ours, stranger)
    await stranger.call(ours, chunk_size)
    await ours.until(lambda: ours.swaps(stranger.me))
    check(ours, stranger, expected)


async def test_we_call_it(ours: Honest, stranger: Stranger) -> None:
    expected = middle(ours, stranger)
    await ours.exchanger.swap(stranger.me)
    assert await asyncio.wait_for(stranger.heard.get(), 10) == "commit"
    assert ours.swaps(stranger.me) == 1
    check(ours, stranger, expected)


@pytest.mark.parametrize("chunk_size", [1 << 18, 1])
async def test_it_calls_off_what_it_has_asked_for(chunk_size: int, ours: Honest, stranger: Stranger) -> None:
    assert await stranger.call_off(ours, chunk_size) == (grpc.StatusCode.FAILED_PRECONDITION, "busy")
    await stranger.call(ours, chunk_size)  # ours is free, and holds nothing against it
    await ours.until(lambda: ours.swaps(stranger.me))
    assert not [event for event in ours.events if isinstance(event, (Failed, Rejected))]


async def test_it_asks_what_became_of_a_swap(ours: Honest, stranger: Stranger) -> None:
    assert await stranger.ask_resolve(ours, bytes(16)) == exchange_pb2.ResolveReply.OUTCOME_ABORTED
    await ours.exchanger.swap(stranger.me)
    (exchange,) = [name for name, committed in ours.exchanger.decisions._journal.items() if committed]
    assert await stranger.ask_resolve(ours, exchange) == exchange_pb2.ResolveReply.OUTCOME_COMMITTED
    with pytest.raises(grpc.aio.AioRpcError):
        await stranger.ask_resolve(ours, b"short")
