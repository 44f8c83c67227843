"""The `Channel` port over an MQTT broker: `p2ptrain/<run>/bytes/<from>/<to>`, where `<to>` is a peer or `all`.

The broker may be away, slow or hostile: what is said meanwhile is lost, what is heard is bounded, and whom it is from
is for the reader to check.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

from aiomqtt import Client, MqttError

from p2ptrain.ports import AIRED_BYTES_MAX, Bytes, PeerId
from p2ptrain.telemetry.events import Event, Noted
from p2ptrain.telemetry.mqtt import ROOT, STEADY_S
from p2ptrain.telemetry.mqtt_broker import Broker, cause, retry_delays
from p2ptrain.waiting import within

UNHEARD_MAX = 256
"""Messages that wait to be heard; later ones are lost."""
CONNECTED_S = 2.0
"""What is said waits so long for a connection."""
TO_ALL = "all"


class MqttChannel:
    """One node at one broker."""

    def __init__(self, broker: Broker, run: str, me: PeerId, emit: Callable[[Event], None]) -> None:
        self._broker, self._me, self._emit = broker, me, emit
        self._topic = f"{ROOT}/{run}/bytes"
        self._heard: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue(UNHEARD_MAX)
        self._client: Client | None = None
        self._connected = asyncio.Event()

    @property
    def is_up(self) -> bool:
        return self._client is not None

    async def say(self, message: Bytes, to: PeerId | None = None) -> None:
        await within(CONNECTED_S, self._connected.wait())
        if self._client is not None:
            with suppress(MqttError):  # lost, as much may be: those who miss it ask for it
                await self._client.publish(f"{self._topic}/{self._me}/{to or TO_ALL}", bytes(message), qos=1)

    async def hear(self) -> tuple[bytes, bool]:
        return await self._heard.get()

    async def run(self) -> None:
        loop, rng = asyncio.get_running_loop(), random.Random(f"{self._topic}/{self._me}")
        delays, is_away = retry_delays(rng), False
        while True:
            since = loop.time()
            try:
                # Not the name under which events go: a broker knows each name once.
                async with self._broker.client(f"b{self._me[:22]}") as client:
                    await client.subscribe([(f"{self._topic}/+/{TO_ALL}", 1), (f"{self._topic}/+/{self._me}", 1)])
                    if is_away:
                        self._emit(Noted("info", f"{self._broker} carries our bytes again"))
                    is_away, self._client = False, client
                    self._connected.set()
                    await self._listen(client)
            except MqttError as error:
                if not is_away:
                    self._emit(Noted("warning", f"{self._broker} {cause(error)}; bytes do not go that way"))
                is_away = True
            finally:
                self._client = None
                self._connected.clear()
            if loop.time() - since > STEADY_S:
                delays = retry_delays(rng)
            await asyncio.sleep(next(delays))

    async def _listen(self, client: Client) -> None:
        async for message in client.messages:
            *_, speaker, to = str(message.topic).split("/")
            payload = message.payload
            is_ours = to in (TO_ALL, self._me) and speaker != self._me
            if isinstance(payload, bytes) and len(payload) <= AIRED_BYTES_MAX and is_ours:
                with suppress(asyncio.QueueFull):
                    self._heard.put_nowait((payload, to == self._me))
