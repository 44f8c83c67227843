"""`p2ptrain top` as a person runs it, at a real broker."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from real_broker import USER, Ear, MakeBroker, free_port, pump, serving

from p2ptrain.telemetry import events
from p2ptrain.telemetry.mqtt import Publisher
from p2ptrain.telemetry.mqtt_broker import Broker
from p2ptrain.telemetry.sinks import Stamp

PEER, PASSERBY = "ab" * 16, "cd" * 16


class Top:
    """The process and its lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []

    async def until(self, words: str, timeout_s: float = 30.0) -> None:
        assert self._process.stdout
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not any(words in line for line in self.lines):
                    line = await self._process.stdout.readline()
                    assert line, f"it ended: {self.lines}"
                    self.lines.append(line.decode())
                return
        pytest.fail(f"no line with {words!r} in {self.lines}")

    async def interrupt(self) -> int:
        self._process.send_signal(signal.SIGINT)
        return await asyncio.wait_for(self._process.wait(), 10)


@contextlib.asynccontextmanager
async def top(*arguments: str) -> AsyncIterator[Top]:
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "node", "top", *arguments, stdout=asyncio.subprocess.PIPE, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    try:
        yield Top(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_nodes_come_train_and_vanish_before_ones_eyes(make_broker: MakeBroker) -> None:
    broker, cut = make_broker(), asyncio.Event()
    await broker.start()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", broker.port)
        pumps = [asyncio.create_task(pump(reader, back)), asyncio.create_task(pump(there, writer))]
        await cut.wait()
        for task in pumps:
            task.cancel()
        back.close()

    async with serving(relay) as port, top(broker.url, "--run", "mine") as table:
        publisher = Publisher(Broker.parse(f"mqtt://127.0.0.1:{port}"), "mine", PEER, "node-0", 0)
        emit = Stamp("node-0", 0.0, publisher).emit
        async with publisher.running(lambda event: None):
            async with Ear().listening(broker.port) as ear:
                await ear.until("/status", "bytes_sent")
            await table.until("1/1 alive")
            emit(events.Started(PEER, 0, "cpu", "127.0.0.1:7000", 10, False))
            await table.until("node-0 is up at 127.0.0.1:7000")
            emit(events.Evaluated(100, 0.5, 0.9))
            await table.until("accuracy 0.900")
            cut.set()
            await table.until("node-0 went offline without a goodbye")
            await table.until("0/1 alive")
        await broker.kill()
        await table.until("does not answer")
        await broker.start()
        emit = Stamp("node-1", 0.0, again := Publisher(Broker.parse(broker.url), "mine", PASSERBY, "node-1", 1)).emit
        async with again.running(lambda event: None):
            await table.until("1/2 alive")
            emit(events.Finished(7))
            await table.until("node-1 finished at step 7")
        assert await table.interrupt() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://127.0.0.1"], "expected mqtt://"),
        (["mqtt://127.0.0.1:1", "--run", "a/#"], "--run a/#: no run is called that"),
        ([f"mqtt://127.0.0.1:{free_port()}"], "does not answer"),
    ],
)
async def test_a_mistake_is_one_line(arguments: list[str], words: str) -> None:
    code, error = await failing_top(*arguments)
    assert code == 2
    assert error.count("\n") == 1
    assert words in error


async def test_a_wrong_password_is_one_line_without_it(make_broker: MakeBroker) -> None:
    broker = make_broker(with_password=True)
    await broker.start()
    code, error = await failing_top(f"mqtt://{USER}:sesame@127.0.0.1:{broker.port}")
    assert code == 2
    assert error.count("\n") == 1
    assert "refuses us" in error
    assert "sesame" not in error


async def failing_top(*arguments: str) -> tuple[int | None, str]:
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "node", "top", *arguments, stderr=asyncio.subprocess.PIPE, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    _, error = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, error.decode()
