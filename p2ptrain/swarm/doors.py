"""Addresses to knock at: the configured bootstrap, and where lost peers used to live.

They are the way in at the start, and the way back together for a swarm that was split for longer than records live.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from p2ptrain.bounded import keep
from p2ptrain.errors import PeerError
from p2ptrain.ports import PeerId
from p2ptrain.telemetry.events import Event, Noted
from p2ptrain.waiting import now

LOST_MAX = 64
LOST_FOR_S = 3600.0
SELDOM_S = 30.0


class Host(Protocol):
    """The part of `Membership` that doors need."""

    @property
    def alone(self) -> bool: ...

    async def greet(self, address: str) -> PeerId:
        """Introduce this node to whoever listens there; raises `PeerError`."""
        ...

    def present(self, peer: PeerId | None, address: str) -> bool:
        """Whether this peer, or one that announces this address, is in the view, or is this node."""
        ...


@dataclass
class _Door:
    address: str
    peer: PeerId | None = None
    """Who answered last."""
    told: set[str] = field(default_factory=set)
    """Why nobody answered, since the last time that somebody did: each reason is told once."""
    is_shut: bool = False
    """At the last attempt nobody lived there, or nobody who lets this node in. No answer in time is not that."""


class Doors:
    """Knocks for ever once started, beside the membership it belongs to."""

    def __init__(self, host: Host, bootstrap: Iterable[str], heartbeat_s: float, emit: Callable[[Event], None]) -> None:
        self._host = host
        self._bootstrap = [_Door(address) for address in dict.fromkeys(bootstrap)]
        self._heartbeat_s = heartbeat_s
        self._emit = emit
        self._lost: dict[str, float] = {}
        self._young_until = float("inf")

    def remember(self, addresses: Iterable[str]) -> None:
        """Somebody who lived there fell silent."""
        for address in addresses:
            keep(self._lost, address, now() + LOST_FOR_S, LOST_MAX)

    @property
    def promising(self) -> bool:
        """Whether somebody not yet in the view may live at one of the bootstrap addresses."""
        return any(not door.is_shut and not self._host.present(door.peer, door.address) for door in self._bootstrap)

    def start(self, group: asyncio.TaskGroup) -> None:
        # Many nodes of a new swarm come up within this time, and perhaps in several clusters.
        self._young_until = now() + max(SELDOM_S, 6 * self._heartbeat_s)
        for door in self._bootstrap:
            group.create_task(self._knock_for_ever(door))
        group.create_task(self._seek_the_lost())

    def patience_s(self, attempt: int = 16) -> float:
        """How long to wait after that many attempts: short for the first, a heartbeat while it is urgent."""
        if self._host.alone or now() < self._young_until:
            return min(self._heartbeat_s, 0.1 * self._heartbeat_s * 2.0 ** min(attempt, 16))
        return max(SELDOM_S, self._heartbeat_s)

    async def _knock_for_ever(self, door: _Door) -> None:
        attempt = 0
        while True:
            if self._host.present(door.peer, door.address):
                attempt = 0
            else:
                await self._knock(door)
                attempt += 1
            await self._pause(attempt)

    async def _knock(self, door: _Door) -> None:
        try:
            door.peer = await self._host.greet(door.address)
        except PeerError as error:
            if error.reason not in door.told:
                again = f"trying again every {self._heartbeat_s:g} s"
                self._emit(Noted("warning", f"bootstrap {door.address}: {error}; {again}"))
            door.told.add(error.reason)
            door.is_shut = error.reason != "deadline"
        else:
            if door.told:
                self._emit(Noted("info", f"bootstrap {door.address}: answers now"))
            door.told.clear()
            door.is_shut = False

    async def _seek_the_lost(self) -> None:
        while True:
            await self._pause()
            address = next(iter(self._lost), None)
            if address is None:
                continue
            forget_at = self._lost.pop(address)
            if self._host.present(None, address) or now() > forget_at:
                continue
            try:
                await self._host.greet(address)
            except PeerError:
                self._lost[address] = forget_at  # to the end of the queue

    async def _pause(self, attempt: int = 16) -> None:
        """Until it is time again. This node may suddenly be alone, and then it is sooner: hence in short pieces."""
        since = now()
        while (left_s := since + self.patience_s(attempt) - now()) > 0:  # noqa: ASYNC110 - time itself is awaited
            await asyncio.sleep(min(left_s, self._heartbeat_s))
