"""`p2ptrain top`: the live table of the swarms that publish to an MQTT broker."""

import asyncio
import contextlib
import random
import re
import signal
from collections.abc import Callable

from aiomqtt import MqttError
from rich.console import Console

from node import live
from node.up import ticking
from p2ptrain.errors import ConfigError
from p2ptrain.swarm.records import NAME
from p2ptrain.telemetry.mqtt_broker import Broker, cause, retry_delays
from p2ptrain.telemetry.mqtt_reader import Reader


async def top(url: str, run: str | None, console: Console | None = None) -> None:
    """Until SIGINT or SIGTERM. Raises `ConfigError`, also for a broker that cannot be reached to begin with."""
    try:
        broker = Broker.parse(url)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if run is not None and not re.match(NAME, run):
        raise ConfigError(f"--run {run}: no run is called that")
    loop, watching = asyncio.get_running_loop(), asyncio.current_task()
    assert watching
    start, reader = loop.time(), Reader(run)
    view = live.view(live.Run(run or str(broker)), console)

    def now() -> float:
        return loop.time() - start

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, watching.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            async with ticking(lambda: view.refresh(reader.state, now())):
                await _watch(broker, reader, view, now)
    finally:
        view.close()
        if reader.num_refused:
            view.say(f"{reader.num_refused} messages were not understood")


async def _watch(broker: Broker, reader: Reader, view: live.View, now: Callable[[], float]) -> None:
    """For ever: a broker that was there once is waited for."""
    delays, was_there = retry_delays(random.Random()), False
    while True:
        try:
            async with broker.client() as client:
                await client.subscribe(reader.topic)
                delays, was_there = retry_delays(random.Random()), True
                async for message in client.messages:
                    stamped = reader.take(str(message.topic), message.payload, now())
                    if stamped:
                        view.event(stamped, reader.state)
        except MqttError as error:
            if not was_there:
                raise ConfigError(f"{broker} {cause(error)}") from None
            view.say(f"{broker} {cause(error)}; trying again", "yellow")
        await asyncio.sleep(next(delays))
