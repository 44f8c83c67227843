"""A simulated broker: the `Channel` port of a whole world. Every message's fate is drawn from one seeded generator."""

import asyncio
import random
from contextlib import suppress
from contextvars import copy_context

from p2ptrain.ports import Bytes, PeerId
from p2ptrain.topology.links import Link

UNHEARD_MAX = 256
"""Messages that wait for a node; later ones are lost."""


class Ether:
    """All ears, and what lies between any two of them and the broker."""

    def __init__(self, rng: random.Random, link: Link) -> None:
        self.rng, self.link = rng, link
        self.is_up = True
        self.num_said = 0
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # what is under way belongs to no node
        self._ears: dict[PeerId, SimulatedChannel] = {}
        self._last: dict[tuple[PeerId, PeerId], float] = {}  # when the last message of one came to the other

    def channel(self, me: PeerId) -> "SimulatedChannel":
        """A node that comes up (again)."""
        self._ears[me] = SimulatedChannel(self, me)
        return self._ears[me]

    def leave(self, me: PeerId) -> None:
        self._ears.pop(me, None)

    def carry(self, speaker: PeerId, message: bytes, to: PeerId | None) -> None:
        """In order, but for what the link does to messages."""
        self.num_said += 1
        for peer in [to] if to is not None else list(self._ears):
            if not self.is_up or peer == speaker or self._chance(self.link.drop):
                continue
            for _ in range(1 + self._chance(self.link.duplicate)):
                self._loop.call_at(self._arrival(speaker, peer), self._land, peer, message, to, context=self._context)

    def _arrival(self, speaker: PeerId, peer: PeerId) -> float:
        when = self._loop.time() + 2 * self.link.latency + self.link.jitter * (self.rng.random() + self.rng.random())
        if self._chance(self.link.reorder):
            return when + 2 * (self.link.latency + self.link.jitter)
        self._last[speaker, peer] = when = max(when, self._last.get((speaker, peer), 0.0))
        return when

    def _land(self, peer: PeerId, message: bytes, to: PeerId | None) -> None:
        if peer in self._ears:
            self._ears[peer].arrive(message, to is not None)

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability


class SimulatedChannel:
    """`ports.Channel` of one node."""

    def __init__(self, ether: Ether, me: PeerId) -> None:
        self._ether, self._me = ether, me
        self._heard: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue(UNHEARD_MAX)

    @property
    def is_up(self) -> bool:
        return self._ether.is_up

    async def say(self, message: Bytes, to: PeerId | None = None) -> None:
        self._ether.carry(self._me, bytes(message), to)

    async def hear(self) -> tuple[bytes, bool]:
        return await self._heard.get()

    async def run(self) -> None:
        """There is nothing to keep."""

    def arrive(self, message: bytes, is_mine: bool) -> None:
        with suppress(asyncio.QueueFull):
            self._heard.put_nowait((message, is_mine))
