"""A node's events at an MQTT broker, for whoever watches: `p2ptrain/<run>/<peer>/<event>`, each the JSON of its log.

`p2ptrain/<run>/<peer>/status` is retained: `online` with the node's figures, said again every few seconds, so that who
comes late knows them too; `offline` when the node has left, or, as its last will, when the broker has lost it.
"""

import asyncio
import contextlib
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Set
from typing import Annotated, Any, Literal

from aiomqtt import Client, MqttError, Will
from pydantic import BaseModel, ConfigDict, Field

from p2ptrain.telemetry.events import Event, Noted, Stamped, Stepped, to_json
from p2ptrain.telemetry.mqtt_broker import WINDOW, Broker, cause, retry_delays, until_lost
from p2ptrain.telemetry.state import Phase, apply, expecting
from p2ptrain.waiting import within

ROOT = "p2ptrain"
MAX_WAITING = 10_000
"""Events kept while the broker is away; then the oldest go."""
MAX_MESSAGE = 1 << 16
"""Bytes; no event or status comes near it."""
MAX_PEERS_TOLD = 256
STEP_EVERY_S = 0.5
"""Of the training steps in between, nothing is said."""
FLUSH_EVERY_S = 0.2
STATUS_EVERY_S = 10.0
CLOSE_TIMEOUT_S = 3.0
STEADY_S = 10.0
"""After a connection that held for so long the pauses start over; shorter ones are a broker's that flaps."""


Amount = Annotated[int, Field(ge=0, lt=1 << 63)]


class Status(BaseModel):
    """What is retained of a node. A last will, which is written beforehand, has name and slot alone."""

    model_config = ConfigDict(frozen=True)

    status: Literal["online", "offline"]
    name: Annotated[str, Field(max_length=64)]
    slot: Amount
    phase: Phase = "offline"
    device: str = ""
    step: Amount = 0
    smooth_loss: float | None = None
    eval_loss: float | None = None
    accuracy: float | None = None
    peers: frozenset[str] = frozenset()
    bytes_sent: Amount = 0
    bytes_received: Amount = 0
    exchanges: Amount = 0
    failed: dict[str, Amount] = {}

    @property
    def figures(self) -> dict[str, Any]:
        """What it says of the fields of a `NodeState`."""
        return {key: getattr(self, key) for key in self.model_fields_set - {"status", "name"}}


_FIGURES = Status.model_fields.keys() - {"status", "name", "slot"}


class Publisher:
    """An `Output` of one node's events; what it writes goes out while `running`.

    The broker may be away, slow or hostile: nothing here blocks, and what waits is bounded."""

    def __init__(self, broker: Broker, run: str, peer: str, name: str, slot: int) -> None:
        self.num_lost = 0
        self._broker, self._peer, self._name, self._slot = broker, peer, name, slot
        self._topic = f"{ROOT}/{run}/{peer}"
        self._state = expecting([name])
        self._next_step_s = 0.0
        self._waiting: deque[Stamped] = deque()
        self._unacknowledged: list[Stamped] = []
        self._closing = asyncio.Event()

    def write(self, stamped: Stamped) -> None:
        if isinstance(stamped.event, Stepped):
            if stamped.time < self._next_step_s:
                return
            self._next_step_s = stamped.time + STEP_EVERY_S
        self._state = apply(self._state, stamped)
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.num_lost += 1
        self._waiting.append(stamped)

    def close(self) -> None:
        """Leaving `running` has done it."""

    @contextlib.asynccontextmanager
    async def running(self, emit: Callable[[Event], None]) -> AsyncIterator[None]:
        """Publish meanwhile; at the end, for a bounded time, what still waits, and a goodbye.

        `emit` takes what a person should know of the broker."""
        task = asyncio.create_task(self._run(emit))
        try:
            yield
        finally:
            self._closing.set()
            done, _ = await asyncio.wait({task}, timeout=CLOSE_TIMEOUT_S)
            task.cancel()
            for ended in done:
                ended.result()

    async def _run(self, emit: Callable[[Event], None]) -> None:
        loop, rng = asyncio.get_running_loop(), random.Random(self._topic)
        delays, is_away, since = retry_delays(rng), False, math.inf
        will = Will(f"{self._topic}/status", self._status("offline", set()), qos=1, retain=True)
        while True:
            try:
                # The broker knows us by our identity: it drops, and with it its last will, a dead connection of ours.
                async with self._broker.client(self._peer[:23], will) as client, asyncio.TaskGroup() as group:
                    lost = group.create_task(until_lost(client))
                    await self._say(client, self._status("online", {"phase", "device"}))
                    if is_away:
                        emit(Noted("info", f"{self._broker} takes our events again"))
                    is_away, since = False, loop.time()
                    await self._publish(client, emit)
                    lost.cancel()
                return
            except* MqttError as errors:
                if not is_away:
                    emit(Noted("warning", f"{self._broker} {cause(errors.exceptions[0])}; events are kept for it"))
                if loop.time() - since > STEADY_S:
                    delays = retry_delays(rng)
                is_away, since = True, math.inf
            if self._closing.is_set():
                return
            await self._pause(next(delays))

    async def _publish(self, client: Client, emit: Callable[[Event], None]) -> None:
        """Until closing. The figures are told when no event is left that they count."""
        loop = asyncio.get_running_loop()
        next_status_s = loop.time()
        while True:
            is_last = self._closing.is_set()
            while self._waiting or self._unacknowledged:
                await self._send(client)
            if self.num_lost:
                emit(Noted("warning", f"{self.num_lost} events were lost for {self._broker}: too many had to wait"))
                self.num_lost = 0
            elif is_last:
                await self._say(client, self._status("offline", _FIGURES))
                return
            elif loop.time() >= next_status_s:
                await self._say(client, self._status("online", _FIGURES))
                next_status_s = loop.time() + STATUS_EVERY_S
            else:
                await self._pause(FLUSH_EVERY_S)

    async def _send(self, client: Client) -> None:
        """A window of what waits, in order. What is not acknowledged is sent again over the next connection."""
        if not self._unacknowledged:
            size = min(WINDOW, len(self._waiting))
            self._unacknowledged = [self._waiting.popleft() for _ in range(size)]
        await asyncio.gather(
            *(
                client.publish(f"{self._topic}/{type(stamped.event).__name__.lower()}", to_json(stamped), qos=1)
                for stamped in self._unacknowledged
            )
        )
        self._unacknowledged = []

    async def _say(self, client: Client, status: str) -> None:
        await client.publish(f"{self._topic}/status", status, qos=1, retain=True)

    def _status(self, status: Literal["online", "offline"], figures: Set[str]) -> str:
        node = self._state.nodes[self._name]
        told = {key: getattr(node, key) for key in figures}
        if "peers" in told:
            told["peers"] = sorted(node.peers)[:MAX_PEERS_TOLD]
        body = Status(status=status, name=self._name, slot=self._slot, **told)
        return body.model_dump_json(exclude_unset=True)

    async def _pause(self, seconds: float) -> None:
        """Cut short by closing."""
        await within(seconds, self._closing.wait())
