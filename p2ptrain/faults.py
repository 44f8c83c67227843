"""Carries out the faults of a topology, in whatever runtime: waits for the moment of each deed, and has it done."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from p2ptrain.telemetry.events import Event, Faulted
from p2ptrain.topology import Topology
from p2ptrain.topology.links import Link, Pair
from p2ptrain.topology.plan import Deed


class Runtime(Protocol):
    """What can be done to a running swarm. Nodes by name; each call returns when it is done.

    What is so already is left so: killing a dead node or starting a live one does nothing."""

    async def kill(self, name: str) -> None:
        """As a power cut."""
        ...

    async def stop(self, name: str) -> None:
        """Ask it to leave; returns when it has."""
        ...

    async def start(self, name: str) -> None:
        """With what its disk has kept; returns once it is under way, not when it has joined."""
        ...

    async def pause(self, name: str) -> None: ...

    async def resume(self, name: str) -> None: ...

    async def tear(self, name: str) -> None:
        """Kill it in the middle of its next write to the disk."""
        ...

    async def skew(self, name: str, seconds: float) -> None:
        """Its clock is off by so much from now on, also after a restart."""
        ...

    async def shape(self, links: Mapping[Pair, Link]) -> None:
        """From now on these directions are such links; the others stay as they are."""
        ...

    async def reset(self, pairs: Sequence[Pair]) -> None:
        """Break the connections between these, in whichever direction they were made."""
        ...


async def carry_out(
    topology: Topology, runtime: Runtime, now: Callable[[], float], emit: Callable[[Event], None]
) -> None:
    """All of it, each deed at its time by `now`, the run's clock. A node that takes long to stop holds up nobody but
    its own next deeds."""
    shapes, turns = Shapes(topology), defaultdict[str, asyncio.Lock](asyncio.Lock)

    async def in_turn(name: str, act: Callable[[str], Awaitable[None]]) -> None:
        async with turns[name]:
            await act(name)

    async with asyncio.TaskGroup() as group:
        for deed in topology.plan():
            await asyncio.sleep(max(0.0, deed.at - now()))
            emit(Faulted(deed.fault, deed.verb, deed.what, " ".join([*deed.nodes, *map(">".join, deed.pairs)])))
            if deed.verb in ("shape", "unshape"):
                await runtime.shape(shapes.after(deed))
            elif deed.verb == "reset":
                await runtime.reset(deed.pairs)
            else:
                act = (
                    partial(runtime.skew, seconds=deed.seconds) if deed.verb == "skew" else getattr(runtime, deed.verb)
                )
                for name in deed.nodes:
                    group.create_task(in_turn(name, act))


class Shapes:
    """What lies between the nodes while several faults change it at once: the file's link, under all in force."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._in_force: list[Deed] = []

    def after(self, deed: Deed) -> dict[Pair, Link]:
        """The links that this deed changes, as they are from now on."""
        if deed.verb == "shape":
            self._in_force.append(deed)
        else:
            ended = next(other for other in self._in_force if (other.fault, other.pairs) == (deed.fault, deed.pairs))
            self._in_force.remove(ended)
        return {pair: self.link(pair) for pair in deed.pairs}

    def link(self, pair: Pair) -> Link:
        change = {field: value for deed in self._in_force if pair in deed.pairs for field, value in deed.change}
        return self._topology.link(pair).model_copy(update=change)
