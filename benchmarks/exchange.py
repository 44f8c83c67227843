"""Two processes swap a float32 vector over loopback: this project's exchange beside plain sockets, gloo and hivemind.

    python -m benchmarks.exchange [--json FILE] [--repeats N] [--megabytes 100]

Every case is full duplex: both sides send the whole vector and receive the other's. Cases run in turns, and ratios are
taken within each round. "ours" is everything: the snapshot, encoding, frames, TLS where named, screening, mixing, the
commit, and the correction taken into the model.
"""

import asyncio
import multiprocessing
import os
import socket
import statistics
import threading
import time
import typing
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks import common

Case = Callable[[], Awaitable[None]]


@asynccontextmanager
async def ours(pipe: Connection, first: bool, size: int, codec: str, tls: bool) -> AsyncIterator[Case]:
    """Both sides are whole exchangers over the real transport; the first one calls."""
    from benchmarks.pair import Side

    with TemporaryDirectory() as home:
        side = Side(Path(home), size, codec, tls)
        mine = await side.start()
        pipe.send(mine)
        side.meet(await _hear(pipe))

        async def swap() -> None:
            if first:
                await side.exchanger.swap(side.other)
            else:
                await side.swapped.wait()
                side.swapped.clear()
            side.replica.settle()

        yield swap
        await side.close()


@asynccontextmanager
async def raw_tcp(pipe: Connection, first: bool, size: int) -> AsyncIterator[Case]:
    """Two threads a side, blocking sockets, one reused buffer: as fast as Python moves bytes."""
    connection = await asyncio.to_thread(_connect, pipe, first)
    outgoing = np.ones(size, np.float32).data.cast("B")
    incoming = np.empty(size, np.float32).data.cast("B")

    def receive() -> None:
        got = 0
        while got < len(incoming):
            got += connection.recv_into(incoming[got:], min(len(incoming) - got, 1 << 20))

    def swap() -> None:
        sender = threading.Thread(target=connection.sendall, args=(outgoing,))
        sender.start()
        receive()
        sender.join()

    async def run() -> None:
        await asyncio.to_thread(swap)

    yield run
    connection.close()


@asynccontextmanager
async def bare_grpc(pipe: Connection, first: bool, size: int) -> AsyncIterator[Case]:
    """The transport alone, in the clear: chunks framed and sent, received and thrown away."""
    from p2ptrain.errors import PeerError
    from p2ptrain.exchange import frames
    from p2ptrain.network.transport import Cleartext, GrpcTransport
    from p2ptrain.ports import Contact, PeerId, Stream

    method = "/p2ptrain.v1.Exchange/Swap"
    vector = np.ones(size, np.float32).data.cast("B")
    starts = range(0, len(vector), 1 << 20)
    swapped = asyncio.Event()

    async def send(stream: Stream) -> None:
        for index, start in enumerate(starts):
            await stream.send(frames.encode_chunk(index, vector[start : start + (1 << 20)]))

    async def both(stream: Stream) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(send(stream))
            for _ in starts:
                frames.decode(await stream.receive())
        swapped.set()

    me, other = PeerId(f"{1 - first:032x}"), PeerId(f"{first:032x}")
    transport = GrpcTransport(me, Cleartext(), print)
    transport.serve_stream(method, both)
    pipe.send(transport.bind("127.0.0.1:0"))
    await transport.start()
    transport.learn(other, Contact((await _hear(pipe),), b""))

    async def run() -> None:
        if first:
            async with transport.stream(other, method, 60) as stream:
                await both(stream)
                with suppress(PeerError):
                    await stream.receive()  # the other side is through, too
        await swapped.wait()
        swapped.clear()

    yield run
    await transport.close()


@asynccontextmanager
async def gloo(pipe: Connection, first: bool, size: int) -> AsyncIterator[Case]:
    """torch.distributed: both tensors on their way at once."""
    import torch.distributed as distributed

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if first:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        pipe.send(port)
    else:
        port = await _hear(pipe)
    await asyncio.to_thread(
        distributed.init_process_group,
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=0 if first else 1,
        world_size=2,
    )
    mine, theirs = torch.ones(size), torch.empty(size)

    def swap() -> None:
        other = 1 if first else 0
        works = [distributed.isend(mine, other), distributed.irecv(theirs, other)]
        for work in works:
            if work is not None:
                work.wait()

    async def run() -> None:
        await asyncio.to_thread(swap)

    yield run
    await asyncio.to_thread(distributed.destroy_process_group)


@asynccontextmanager
async def hivemind_stream(pipe: Connection, first: bool, size: int) -> AsyncIterator[Case]:
    """Two libp2p daemons and one stream of hivemind's tensor messages, both ways at once, uncompressed.

    Parts of 512 KiB, as its all-reduce sends them, serialised and decoded by its own functions but without its thread
    per part. That is the fastest way found: its `split_for_streaming` of one tensor into 64 KiB takes twice as long."""
    os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")
    from hivemind.averaging.partition import DEFAULT_PART_SIZE_BYTES
    from hivemind.compression import deserialize_torch_tensor, serialize_torch_tensor
    from hivemind.p2p import P2P, P2PContext, PeerID, ServicerBase
    from hivemind.proto.averaging_pb2 import AveragingData  # type: ignore[attr-defined]

    parts = torch.ones(size).split(DEFAULT_PART_SIZE_BYTES // 4)
    swapped = asyncio.Event()

    async def outgoing() -> AsyncIterator[AveragingData]:
        for part in parts:
            yield AveragingData(tensor_part=serialize_torch_tensor(part))

    async def receive(stream: AsyncIterator[AveragingData]) -> None:
        async for message in stream:
            deserialize_torch_tensor(message.tensor_part)

    class Swap(ServicerBase):
        async def rpc_swap(  # hivemind knows a stream by typing's alias only
            self, stream: typing.AsyncIterator[AveragingData], context: P2PContext
        ) -> typing.AsyncIterator[AveragingData]:
            receiving = asyncio.create_task(receive(stream))
            async for part in outgoing():
                yield part
            await receiving
            swapped.set()

    listen = ["/ip4/127.0.0.1/tcp/0"]
    if first:
        peer, addresses = await _hear(pipe)
        p2p = await P2P.create(initial_peers=addresses, host_maddrs=listen)
        stub: Any = Swap.get_stub(p2p, PeerID.from_base58(peer))
    else:
        p2p = await P2P.create(host_maddrs=listen)
        await Swap().add_p2p_handlers(p2p)
        pipe.send((str(p2p.peer_id), [str(address) for address in await p2p.get_visible_maddrs()]))
        stub = None

    async def run() -> None:
        if stub is not None:
            await receive(await stub.rpc_swap(outgoing()))
        else:
            await swapped.wait()
            swapped.clear()

    yield run
    await p2p.shutdown()


CASES: dict[str, tuple[str, Callable[..., Any]]] = {
    "raw TCP": ("1.0", raw_tcp),
    "ours fp32 in the clear": (">= 0.4", lambda p, f, s: ours(p, f, s, "fp32", tls=False)),
    "ours fp32 TLS": (">= 0.25", lambda p, f, s: ours(p, f, s, "fp32", tls=True)),
    "ours int8 TLS": (">= 0.667", lambda p, f, s: ours(p, f, s, "int8", tls=True)),
    "grpc.aio alone": ("", bare_grpc),
    "gloo send/recv": ("", gloo),
    "hivemind P2P stream": ("", hivemind_stream),
}


async def _side(pipe: Connection, first: bool, size: int, repeats: int, names: list[str]) -> dict[str, Any]:
    """Run every case in turns, in step with the other side; this side's seconds and CPU seconds of each round."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    async with AsyncExitStack() as stack:
        cases = {name: await stack.enter_async_context(CASES[name][1](pipe, first, size)) for name in names}
        for turn in range(repeats + 1):
            for name, case in cases.items():
                pipe.send("ready")
                await _hear(pipe)
                wall, busy = time.perf_counter(), time.process_time()
                await case()
                wall, busy = time.perf_counter() - wall, time.process_time() - busy
                if turn:
                    seconds[name].append(wall)
                    cpu[name].append(busy)
    return {"seconds": seconds, "cpu": cpu}


def _other_side(pipe: Connection, size: int, repeats: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    asyncio.run(_side(pipe, False, size, repeats, names))


async def _hear(pipe: Connection) -> Any:
    return await asyncio.to_thread(pipe.recv)


def _connect(pipe: Connection, first: bool) -> socket.socket:
    if not first:
        connection = socket.create_connection(("127.0.0.1", pipe.recv()))
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            pipe.send(server.getsockname()[1])
            connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--megabytes", type=int, default=100, help="of float32 (default 100)")
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = args.megabytes * 250_000
    here, there = multiprocessing.Pipe()
    other = multiprocessing.get_context("spawn").Process(
        target=_other_side, args=(there, size, args.repeats, args.cases), daemon=True
    )
    other.start()
    result = asyncio.run(_side(here, True, size, args.repeats, args.cases))
    other.join()
    base = result["seconds"]["raw TCP"]
    rows = []
    for name in args.cases:
        times = result["seconds"][name]
        ratio = common.ratio_to(base, times)
        rows.append((name, statistics.median(times), statistics.median(result["cpu"][name]), ratio, CASES[name][0]))
    columns = ["case", "median s", "CPU s, one side", "speed / raw TCP", "required"]
    common.table(f"Full-duplex swap of {args.megabytes} MB of float32, {args.repeats} rounds", columns, rows)
    if "hivemind P2P stream" in args.cases:
        for name in args.cases:
            if name.startswith("ours"):
                faster = common.ratio_to(result["seconds"]["hivemind P2P stream"], result["seconds"][name])
                print(f"{name}: {faster:.2f} times as fast as hivemind's P2P stream (required 3)")
    common.write_json(args.json, {"megabytes": args.megabytes, "cpus": os.cpu_count(), **result})


if __name__ == "__main__":
    main()
