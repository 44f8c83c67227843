"""How much a training step slows down while its process exchanges, beside a plain TCP copy of the same bytes.

    python -m benchmarks.overlap [--json FILE] [--repeats N] [--block 8]

This process trains a model of 10M parameters in the compute thread, on one torch thread; a second process is the peer,
bound to a CPU that training does not have to itself. Blocks of steps take turns:

    nothing          only trains
    without pause    int8 swaps over TLS, one after the other
    plain TCP        threads of this process send and receive as many bytes per second as the block before, in as many
                     portions, both ways at once, and do nothing with them; they do not give way to training as a
                     node's threads do
    one in four      an int8 swap each four steps, which is what gossip does by default

Slowdowns are the ratios of the medians of each round's blocks. Where a step's time goes, on Linux: on a CPU, ready to
run while all CPUs were busy with other threads, and waiting for the interpreter lock or the replica's.
"""

import asyncio
import multiprocessing
import os
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import common
from benchmarks.pair import Side
from p2ptrain.errors import PeerError
from p2ptrain.telemetry.events import Event, Exchanged
from p2ptrain.training.compute import ThreadCompute, give_way
from p2ptrain.training.tasks import Batch, Task
from p2ptrain.training.trainer import Trainer

WIDTH, LAYERS, BATCH = 1280, 6, 256
NOTHING, OURS, PLAIN, ORDINARY = "nothing", "swaps without pause", "plain TCP, as many bytes", "one swap in four steps"
ALLOWED_POINTS = 10.0
PART = 1 << 20
GIVE_UP_S = 60.0


class Wide(Task):
    """A stack of square layers on noise: 10M parameters, a step of about 200 ms."""

    batch_size: int = BATCH

    def model(self, seed: int) -> nn.Module:
        layers = (layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU()))
        return nn.Sequential(*layers)

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> Batch:
        inputs = torch.from_numpy(rng.standard_normal((self.batch_size, WIDTH), dtype=np.float32))
        return inputs, inputs

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(model(inputs), targets)


class Block(NamedTuple):
    """One block of steps with one case."""

    step_s: list[float]
    cpu_s: float
    """Per step, like the next two."""
    queue_s: float
    lock_s: float
    swaps_per_s: float = 1.0
    bytes_per_s: float = 1e6
    """Sent and received together."""


class Clock:
    """Where the compute thread's time goes."""

    def __init__(self) -> None:
        self._schedstat = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")

    def read(self) -> np.ndarray:
        """(wall clock, CPU, in the run queue), (3,) in seconds."""
        queue_s = int(self._schedstat.read_text().split()[1]) / 1e9 if self._schedstat.exists() else 0.0
        return np.array([time.perf_counter(), time.thread_time(), queue_s])


class Counter:
    """Swaps and bytes so far."""

    def __init__(self, side: Side) -> None:
        self.swaps, self.moved, self.failed = 0, 0, 0
        side.exchanger.talk.emit = self._count

    def _count(self, event: Event) -> None:
        if isinstance(event, Exchanged):
            self.swaps += 1
            self.moved += event.bytes_sent + event.bytes_received
        else:
            self.failed += 1


class Plain:
    """One end of a plain connection that moves portions both ways."""

    def __init__(self, connection: socket.socket, threads: ThreadPoolExecutor) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self.threads = threads
        self._outgoing = memoryview(bytearray(PART))
        self._incoming = memoryview(bytearray(PART))

    def swap(self, size: int) -> None:
        sent = self.threads.submit(self._send, size)
        for length in _parts(size):
            self.receive(length)
        sent.result()

    def receive(self, length: int) -> bytes:
        got = 0
        while got < length:
            new = self._connection.recv_into(self._incoming[got:length])
            if not new:
                raise EOFError
            got += new
        return bytes(self._incoming[:8])

    def announce(self, size: int) -> None:
        self._connection.sendall(size.to_bytes(8, "big"))

    def _send(self, size: int) -> None:
        for length in _parts(size):
            self._connection.sendall(self._outgoing[:length])


def _two_threads() -> ThreadPoolExecutor:
    """They exist, with the priority of a thread that has not given way."""
    threads, both = ThreadPoolExecutor(2), threading.Barrier(2)
    for started in [threads.submit(both.wait) for _ in range(2)]:
        started.result()
    return threads


def _parts(size: int) -> list[int]:
    return [min(PART, size - start) for start in range(0, size, PART)]


class Bench:
    """The training process."""

    def __init__(self, compute: ThreadCompute, side: Side, trainer: Trainer, plain: Plain, block: int) -> None:
        self.compute, self.side, self.plain, self.block = compute, side, plain, block
        self.trainer = trainer
        self.counter = Counter(side)
        self.last = Block([], 0.0, 0.0, 0.0)
        self._stop = threading.Event()

    async def run(self, name: str) -> Block:
        self._stop.clear()
        cases = {OURS: self._without_pause, PLAIN: self._beside_plain}
        beside = asyncio.ensure_future(cases[name]()) if name in cases else None
        await asyncio.sleep(0.3)
        swaps, moved, begun = self.counter.swaps, self.counter.moved, time.perf_counter()
        spent = []
        for _ in range(self.block // 4):
            swap = [asyncio.ensure_future(self._swap())] if name == ORDINARY else []
            spent += [await self.compute.run(self._step) for _ in range(4)]
            await asyncio.gather(*swap)
        seconds = time.perf_counter() - begun
        wall_s, cpu_s, queue_s = np.array(spent).T
        block = Block(
            wall_s.tolist(),
            cpu_s.mean(),
            queue_s.mean(),
            (wall_s - cpu_s - queue_s).mean(),
            (self.counter.swaps - swaps) / seconds,
            (self.counter.moved - moved) / seconds,
        )
        self._stop.set()
        if beside:
            await beside
        if name == OURS:
            self.last = block
        await asyncio.sleep(0.2)
        return block

    def _step(self) -> np.ndarray:
        """As `Clock.read`: what one step took."""
        clock = Clock()
        before = clock.read()
        self.trainer.step()
        return clock.read() - before

    async def _without_pause(self) -> None:
        while not self._stop.is_set():
            await self._swap()

    async def _swap(self) -> None:
        try:
            async with asyncio.timeout(GIVE_UP_S):
                await self.side.exchanger.swap(self.side.other)
        except PeerError:  # busy: the compute thread is copying
            await asyncio.sleep(0.001)

    async def _beside_plain(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self.plain.threads, self._plain)

    def _plain(self) -> None:
        """In portions of one swap's bytes, at the pace of the block before."""
        portion = int(self.last.bytes_per_s / self.last.swaps_per_s / 2)
        begun = due = time.monotonic()
        done = 0
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self.plain.announce(portion)
            self.plain.swap(portion)
            self.counter.swaps += 1
            self.counter.moved += 2 * portion
            done += 1
            due = begun + done / self.last.swaps_per_s


def _peer(pipe: Connection, home: Path) -> None:
    """The other process: answers swaps and plain portions."""
    os.sched_setaffinity(0, {pipe.recv()})
    torch.set_num_threads(1)
    threads = _two_threads()
    give_way()

    def echo(plain: Plain) -> None:
        with suppress(EOFError, OSError):
            while size := int.from_bytes(plain.receive(8), "big"):
                plain.swap(size)

    async def serve() -> None:
        side = Side(home, 1, "int8", tls=True, module=Wide().model(0))
        pipe.send(await side.start())
        side.meet(pipe.recv())
        with socket.create_server(("127.0.0.1", 0)) as server:
            pipe.send(server.getsockname()[1])
            connection, _ = server.accept()
        threads.submit(echo, Plain(connection, threads))
        pipe.send("ready")
        with suppress(EOFError):
            await asyncio.to_thread(pipe.recv)
        connection.shutdown(socket.SHUT_RDWR)
        await side.close()

    asyncio.run(serve())


async def _measure(pipe: Connection, home: Path, repeats: int, block: int) -> dict[str, list[Block]]:
    task, threads = Wide(), _two_threads()
    compute = ThreadCompute(threads=1)
    give_way(never_waits=True)
    pipe.send(max(os.sched_getaffinity(0)))
    side = Side(home, 1, "int8", tls=True, module=task.model(0))
    trainer = Trainer(task, side.replica, np.arange(1), seed=0, slot=0)
    pipe.send(await side.start())
    side.meet(await asyncio.to_thread(pipe.recv))
    port = await asyncio.to_thread(pipe.recv)
    plain = Plain(socket.create_connection(("127.0.0.1", port)), threads)
    bench = Bench(compute, side, trainer, plain, block)
    await asyncio.to_thread(pipe.recv)
    blocks: dict[str, list[Block]] = {name: [] for name in (NOTHING, OURS, PLAIN, ORDINARY)}
    for turn in range(repeats + 1):
        for name in blocks:
            measured = await bench.run(name)
            if turn:
                blocks[name].append(measured)
    bench.compute.close()
    pipe.send("")
    await side.close()
    if bench.counter.failed:
        print(f"{bench.counter.failed} swaps failed")
    return blocks


def _slowdowns(seconds: dict[str, list[float]]) -> dict[str, float]:
    """In percent: medians of the ratios within the rounds."""
    return {name: 100 * (1 / common.ratio_to(seconds[NOTHING], series) - 1) for name, series in seconds.items()}


def main() -> None:
    parser = common.arguments(__doc__)
    parser.set_defaults(repeats=6)
    parser.add_argument("--block", type=int, default=8, help="steps per block, a multiple of 4 (default 8)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    here, there = multiprocessing.Pipe()
    with TemporaryDirectory() as folder:
        homes = [Path(folder) / "a", Path(folder) / "b"]
        spawn = multiprocessing.get_context("spawn")
        other = spawn.Process(target=_peer, args=(there, homes[1]), daemon=True)
        other.start()
        blocks = asyncio.run(_measure(here, homes[0], args.repeats, args.block))
        other.join(10)
    steps = {name: [statistics.median(one.step_s) for one in series] for name, series in blocks.items()}
    slowdown = _slowdowns(steps)
    apart = _slowdowns({name: [one.cpu_s + one.lock_s for one in series] for name, series in blocks.items()})
    rows = []
    for name, series in blocks.items():
        cpu, queue, lock, swaps, moved = (
            statistics.median(column) for column in zip(*(b[1:] for b in series), strict=True)
        )
        times = [1e3 * seconds for seconds in (statistics.median(steps[name]), cpu, queue, lock)]
        rows.append((name, *times, slowdown[name], swaps, moved / 1e6))
    columns = ["beside the training", "step ms", "on a CPU", "CPUs busy", "locked out", "slowdown %", "swaps/s", "MB/s"]
    size = LAYERS * WIDTH * (WIDTH + 1) / 1e6
    title = f"A training step of {size:.3g}M parameters on one thread, {args.repeats} rounds of {args.block} steps"
    common.table(title, columns, rows)
    print(
        f"swaps without pause slow it down {slowdown[OURS] - slowdown[PLAIN]:.1f} points more than plain TCP "
        f"(allowed {ALLOWED_POINTS:g}); {apart[OURS] - apart[PLAIN]:.1f} without the time in which it waited for a CPU"
    )
    common.write_json(
        args.json,
        {
            "slowdown_percent": slowdown,
            "slowdown_percent_with_cpus_to_spare": apart,
            "blocks": {name: [one._asdict() for one in series] for name, series in blocks.items()},
        },
    )


if __name__ == "__main__":
    main()
