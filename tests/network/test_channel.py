"""The `Channel` port over a real broker that dies and comes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from notes import Notes
from real_broker import MakeBroker

from p2ptrain.network.channel import MqttChannel
from p2ptrain.ports import AIRED_BYTES_MAX, PeerId
from p2ptrain.telemetry.mqtt_broker import Broker

HEARD_S = 30.0
A, B, C = (PeerId(letter * 32) for letter in "abc")


@contextlib.asynccontextmanager
async def on_air(url: str, me: PeerId) -> AsyncIterator[tuple[MqttChannel, Notes]]:
    notes = Notes()
    channel = MqttChannel(Broker.parse(url), "run", me, notes.emit)
    task = asyncio.create_task(channel.run())
    try:
        yield channel, notes
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until_up(*channels: MqttChannel) -> None:
    async with asyncio.timeout(HEARD_S):
        while not all(channel.is_up for channel in channels):  # noqa: ASYNC110 - a port to be asked
            await asyncio.sleep(0.01)


async def hear(channel: MqttChannel) -> tuple[bytes, bool]:
    return await asyncio.wait_for(channel.hear(), HEARD_S)


async def test_all_hear_what_is_said_to_all_and_one_what_is_said_to_it(make_broker: MakeBroker) -> None:
    broker = make_broker()
    await broker.start()
    url = broker.url
    async with on_air(url, A) as (a, _), on_air(url, B) as (b, _), on_air(url, C) as (c, _):
        await until_up(a, b, c)
        await a.say(b"to b", B)
        await a.say(b"x" * (AIRED_BYTES_MAX + 1))
        await a.say(b"to all")
        assert [await hear(b), await hear(b)] == [(b"to b", True), (b"to all", False)]
        assert await hear(c) == (b"to all", False)
        await c.say(b"back")
        assert await hear(a) == (b"back", False)  # and nothing of its own


async def test_it_is_down_while_the_broker_is_and_up_again_after(make_broker: MakeBroker) -> None:
    broker = make_broker()
    async with on_air(broker.url, A) as (a, told), on_air(broker.url, B) as (b, _):
        await told.until("bytes do not go that way")
        assert not a.is_up
        await a.say(b"lost")
        for num in range(2):
            await broker.start()
            await until_up(a, b)
            await told.until("carries our bytes again")
            await a.say(b"heard %d" % num)
            assert await hear(b) == (b"heard %d" % num, False)
            told.said.clear()
            await broker.kill()
            await told.until("bytes do not go that way")
            assert not a.is_up
